"""Float rows in vectors on any machine: curves, softmax and norms, to the bit those of `fxquant.primitives.real`.

    void curve(int32 task, x, [peaks], out)
    void softmax(int32 task, x, [peaks], out, scratch)          scratch: the powers of a row
    void norm(int32 task, x, [weight], [bias], [peaks], out)

With `peaks`, each task notes the largest magnitudes that it stores, for a range of run time.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from math import ceil, prod
from typing import Any

from fxquant.reals import CURVES, LANES, share
from fxquant.targets.kernels.contract.kernel import Kernel, TensorSpec
from fxquant.targets.kernels.elementwise.map import TASK_ELEMENTS
from fxquant.targets.kernels.words.numbers import PEAKS, magnitude, real
from fxquant.targets.kernels.words.pieces import load_some, offset, position
from fxquant.targets.kernels.words.reals import Vectors, folded
from fxquant.targets.kernels.words.tir import argument, load, pick, prim_func
from fxquant.targets.tvm_api import I, T, intrinsic, tirx

WORDS = Vectors()
WEIGHT = 4  # of an element, in simple operations
_MOST_TASKS = 64
_WHOLE = I.ramp(0, 1, LANES)


@dataclass(frozen=True)
class RealNorm:
    """A norm over the last axis: which of gamma and beta there are, and what it is about."""

    epsilon: float
    has_weight: bool
    has_bias: bool
    about_zero: bool


def tasks_of(spec: TensorSpec, rows: int) -> int:
    """How many tasks share the rows."""
    return max(1, min(_MOST_TASKS, rows, ceil(spec.size * WEIGHT / TASK_ELEMENTS)))


def is_dense(x: TensorSpec, out: TensorSpec) -> bool:
    """Whether both lie alike, without gaps, in whatever order."""
    inner = [(a, b) for a, b, n in zip(x.strides, out.strides, x.shape, strict=True) if n > 1]
    return x.shape == out.shape and all(a == b for a, b in inner) and x.extent == out.extent == x.size


def curve_kernel(x: TensorSpec, out: TensorSpec, function: str, peaks: bool) -> Kernel:
    """A function of each value, of tensors that lie alike or have contiguous rows."""
    if is_dense(x, out):
        x = out = TensorSpec("float32", *_cut(x.size))
    tasks = tasks_of(x, prod(x.shape[:-1]))
    with prim_func("real_curve") as finish:
        frame = _Frame(x, out, tasks)
        frame.declare(peaks)
        with frame.rows() as (source, target):

            def curve(at: Any, count: int) -> None:
                frame.store(target, at, CURVES[function](WORDS, frame.value(source, at, count)), count)

            frame.walk(curve)
    return Kernel(finish(), tasks)


def _cut(size: int) -> tuple[tuple[int, int], tuple[int, int]]:
    """A dense tensor as rows of a good length, where it divides so."""
    length = next((n for n in range(64 * LANES, 7 * LANES, -LANES) if size % n == 0), size)
    return (size // length, length), (length, 1)


def softmax_kernel(x: TensorSpec, out: TensorSpec, peaks: bool) -> Kernel:
    """The last axis, which is contiguous in both."""
    rows, room = prod(x.shape[:-1]), ceil(x.shape[-1] / LANES) * LANES
    tasks = tasks_of(x, rows)
    with prim_func("real_softmax") as finish:
        frame = _Frame(x, out, tasks)
        frame.declare(peaks)
        powers = argument("powers", room, "float32")
        with frame.rows() as (source, target):
            least = WORDS.constant(float("-inf"))

            def value(at: Any, count: int) -> Any:
                return frame.value(source, at, count, float("-inf"))

            # As the second operand, the largest one so far never becomes NaN.
            most = frame.reduced(value, least, lambda new, found: T.max(new, found))
            peak = I.Bind(T.broadcast(folded(most, T.max), LANES))

            def power(at: Any, count: int) -> Any:
                found = share(WORDS, WORDS.minus(value(at, count), peak))
                I.buffer_store(powers, found, [I.ramp(at, 1, LANES)])
                return found

            sums = frame.reduced(power, WORDS.constant(0.0), lambda new, found: found + new)
            total = I.Bind(T.broadcast(folded(sums, lambda a, b: a + b), LANES))
            frame.walk(lambda at, count: frame.store(target, at, WORDS.over(load(powers, at, LANES), total), count))
    return Kernel(finish(), tasks, 4 * room)


def norm_kernel(x: TensorSpec, out: TensorSpec, norm: RealNorm, peaks: bool) -> Kernel:
    """The last axis, which is contiguous in both."""
    length = x.shape[-1]
    tasks = tasks_of(x, prod(x.shape[:-1]))
    with prim_func("real_norm") as finish:
        frame = _Frame(x, out, tasks)
        weight = argument("weight", length, "float32") if norm.has_weight else None
        bias = argument("bias", length, "float32") if norm.has_bias else None
        frame.declare(peaks)

        def mean(value: Callable[[Any, int], Any]) -> Any:
            sums = frame.reduced(value, WORDS.constant(0.0), lambda new, found: found + new)
            return I.Bind(folded(sums, lambda a, b: a + b) / real(float(length)))

        with frame.rows() as (source, target):
            zero: Any = None
            if not norm.about_zero:
                zero = I.Bind(T.broadcast(mean(lambda at, count: frame.value(source, at, count)), LANES))

            def centred(at: Any, count: int) -> Any:
                value = frame.value(source, at, count)
                return value if zero is None else WORDS.minus(value, zero)

            def square(at: Any, count: int) -> Any:
                value = I.Bind(_only(centred(at, count), count))
                return WORDS.times(value, value)

            root = intrinsic("llvm.sqrt", "float32", I.Bind(mean(square) + real(norm.epsilon)))
            unit = I.Bind(T.broadcast(I.Bind(real(1.0) / root), LANES))

            def result(at: Any, count: int) -> None:
                value = WORDS.times(centred(at, count), unit)
                value = value if weight is None else WORDS.times(value, load_some(weight, at, count, LANES))
                value = value if bias is None else WORDS.plus(value, load_some(bias, at, count, LANES))
                frame.store(target, at, value, count)

            frame.walk(result)
    return Kernel(finish(), tasks)


def _only(vector: Any, count: int, fill: float = 0.0) -> Any:
    """The first so many lanes, the others `fill`."""
    if count == LANES:
        return vector
    inside = _WHOLE < T.broadcast(tirx.const(count, "int32"), LANES)
    return tirx.Select(inside, vector, WORDS.constant(fill))


class _Frame:
    """The function while it is being built: its rows, one after another, in vectors of which the last may be short."""

    def __init__(self, x: TensorSpec, out: TensorSpec, tasks: int) -> None:
        self.spec, self.out_spec, self.tasks = x, out, tasks
        self.length = x.shape[-1]
        self.task: Any = I.arg("task", I.int32())
        self.x = argument("x", x.extent, "float32", 4)
        self.peaks: Any = None

    def declare(self, peaks: bool) -> None:
        """The arguments behind the constants."""
        if peaks:
            self.peaks = argument("peaks", PEAKS * self.tasks, "float32")
        self.out = argument("out", self.out_spec.extent, "float32", 4)

    @contextmanager
    def rows(self) -> Iterator[tuple[Any, Any]]:
        """A loop over the task's rows: where each begins in `x` and in the result."""
        count, lead = prod(self.spec.shape[:-1]), self.spec.shape[:-1]
        if self.peaks is not None:
            I.buffer_store(self.peaks, WORDS.constant(0.0), [I.ramp(self.task * PEAKS, 1, PEAKS)])
        with I.serial(self.task * count // self.tasks, (self.task + 1) * count // self.tasks) as row:
            index = position(row, lead)
            yield tuple(I.Bind(offset(index, spec.strides[:-1])) for spec in (self.spec, self.out_spec))

    def walk(self, body: Callable[[Any, int], Any]) -> None:
        """`body` for each vector of a row: where it begins, and how many of its lanes count."""
        whole, rest = divmod(self.length, LANES)
        if whole:
            with I.serial(0, whole) as i:
                body(I.Bind(i * LANES), LANES)
        if rest:
            body(whole * LANES, rest)

    def reduced(self, value: Callable[[Any, int], Any], first: Any, both: Callable[[Any, Any], Any]) -> Any:
        """All vectors of a row put together, lane by lane, in order."""
        found = I.alloc_buffer((LANES,), "float32")
        I.buffer_store(found, first, [_WHOLE])
        self.walk(lambda at, count: I.buffer_store(found, both(value(at, count), found[_WHOLE]), [_WHOLE]))
        return I.Bind(found[_WHOLE])

    def value(self, source: Any, at: Any, count: int, fill: float = 0.0) -> Any:
        """A vector of the row, with `fill` in lanes that it has not."""
        return I.Bind(_only(load_some(self.x, source + at, count, LANES), count, fill))

    def store(self, target: Any, at: Any, vector: Any, count: int) -> None:
        """The lanes that count, noted as well where magnitudes are wanted."""
        vector = I.Bind(vector)
        place = I.ramp(target + at, 1, count) if count > 1 else target + at
        I.buffer_store(self.out, vector if count == LANES else pick(vector, 0, count), [place])
        if self.peaks is not None:
            noted = I.ramp(self.task * PEAKS, 1, PEAKS)
            size = _only(magnitude(vector, LANES), count)
            I.buffer_store(self.peaks, T.max(size, self.peaks[noted]), [noted])
