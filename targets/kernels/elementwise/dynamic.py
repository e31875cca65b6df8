"""Ranges at run time: the largest magnitude of a tensor, its scale, and the integers of that scale.

    void peaks(int32 task, x, peaks)           one vector of magnitudes per task
    void scale(int32 task, peaks, levels, out)
    void round(int32 task, x, scale, numbers, out)      numbers: zero point, qmin, qmax

The arithmetic is that of `fxquant.primitives.dynamic`, to the bit: an unequal comparison with NaN is false, so that a
maximum which is kept as the second operand never becomes NaN.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

from fxquant.qparams import LARGEST_SCALE, SMALLEST_SCALE
from fxquant.targets.kernels.contract.kernel import Choice, Kernel, TensorSpec
from fxquant.targets.kernels.contract.operations import Round
from fxquant.targets.kernels.contract.template import Maker
from fxquant.targets.kernels.elementwise.map import TASK_ELEMENTS
from fxquant.targets.kernels.words.numbers import PEAKS, magnitude, real
from fxquant.targets.kernels.words.tir import argument, bits, load, prim_func, splat
from fxquant.targets.tvm_api import I, T, tirx


def peaks_kernel(size: int, lanes: int) -> Kernel:
    """The largest magnitudes of `size` floats, lane by lane, NaN left out."""
    tasks = min(64, ceil(size / TASK_ELEMENTS))
    whole, rest = size // lanes, size % lanes
    with prim_func("peaks") as finish:
        task: Any = I.arg("task", I.int32())
        x = argument("x", size, "float32", 4)
        peaks = argument("peaks", PEAKS * tasks, "float32")
        most = I.alloc_buffer((PEAKS,), "float32")
        I.buffer_store(most, T.broadcast(real(0.0), PEAKS), [I.ramp(0, 1, PEAKS)])
        lane = I.ramp(0, 1, lanes)
        with I.serial(task * whole // tasks, (task + 1) * whole // tasks) as step:
            I.buffer_store(most, T.max(magnitude(load(x, step * lanes, lanes), lanes), most[lane]), [lane])
        if rest:
            with I.If(task == tasks - 1), I.Then(), I.serial(whole * lanes, size) as at:
                I.buffer_store(most, T.max(T.abs(x[at]), most[0]), [0])
        I.buffer_store(peaks, most[I.ramp(0, 1, PEAKS)], [I.ramp(task * PEAKS, 1, PEAKS)])
    return Kernel(finish(), tasks)


def scale_kernel(count: int) -> Kernel:
    """The scale of a tensor from the `count` peaks of its tasks."""
    with prim_func("scale") as finish:
        I.arg("task", I.int32())
        peaks = argument("peaks", PEAKS * count, "float32")
        levels = argument("levels", 1, "float32", 4)
        out = argument("out", 1, "float32", 4)
        most = I.alloc_buffer((PEAKS,), "float32")
        lane = I.ramp(0, 1, PEAKS)
        I.buffer_store(most, T.broadcast(real(0.0), PEAKS), [lane])
        with I.serial(0, count) as step:
            I.buffer_store(most, T.max(load(peaks, step * PEAKS, PEAKS), most[lane]), [lane])
        with I.serial(1, PEAKS) as i:
            I.buffer_store(most, T.max(most[i], most[0]), [0])
        steps = most[0] / levels[0]
        I.buffer_store(out, T.min(T.max(steps, real(SMALLEST_SCALE)), real(LARGEST_SCALE)), [0])
    return Kernel(finish(), 1)


@dataclass(frozen=True)
class Rows:
    """`count` rows of `length` contiguous elements, that start `x` elements apart in one tensor, `out` in another."""

    count: int
    length: int
    x: int
    out: int


def common_rows(x: TensorSpec, out: TensorSpec, lanes: int) -> Rows | None:
    """The longest rows that both tensors have; None where they are shorter than a vector, or not evenly apart."""
    axes = sorted((a for a in range(len(x.shape)) if x.shape[a] > 1), key=lambda a: -x.strides[a])
    length = 1
    while axes and x.strides[axes[-1]] == out.strides[axes[-1]] == length:
        length *= x.shape[axes.pop()]
    if length < lanes or len(axes) > 1:
        return None
    return Rows(x.shape[axes[0]], length, x.strides[axes[0]], out.strides[axes[0]]) if axes else Rows(1, length, 0, 0)


def rows(lanes: int) -> Maker:
    """The template of rows that both tensors have."""

    def make(problem: Round, _numbers: None) -> Choice | None:
        found = common_rows(problem.x, problem.out, lanes)
        if found is None:
            return None
        return Choice("round", None, partial(round_kernel, problem.x, problem.out, found, lanes), {})

    return make


def round_kernel(x: TensorSpec, out: TensorSpec, rows: Rows, lanes: int) -> Kernel:
    """Bytes or words of a tensor, row by row; the last vector of a row overlaps the one before."""
    count, length = rows.count, rows.length
    tasks = min(64, count, ceil(x.size / TASK_ELEMENTS))
    with prim_func("round") as finish:
        task: Any = I.arg("task", I.int32())
        source = argument("x", x.extent, "float32", 4)
        scale = argument("scale", 1, "float32", 4)
        numbers = argument("numbers", 3, "int32", 4)
        target = argument("out", out.extent, out.dtype, 1)
        unit = I.Bind(T.broadcast(real(1.0) / scale[0], lanes))
        zero = I.Bind(T.broadcast(numbers[0] + out.bias, lanes))
        ends = [I.Bind(T.broadcast(T.cast(numbers[k] - numbers[0], "float32"), lanes)) for k in (1, 2)]
        with (
            I.serial(task * count // tasks, (task + 1) * count // tasks) as row,
            I.serial(0, ceil(length / lanes)) as i,
        ):
            at = i * lanes if length % lanes == 0 else T.min(i * lanes, length - lanes)
            steps = _steps(load(source, row * rows.x + at, lanes), unit, ends, lanes)
            place = I.ramp(row * rows.out + at, 1, lanes)
            I.buffer_store(target, T.cast(steps + zero, f"{out.dtype}x{lanes}"), [place])
    return Kernel(finish(), tasks)


def _steps(x: Any, unit: Any, ends: list[Any], lanes: int) -> Any:
    """x * unit, rounded half to even, as s32 between the ends; NaN is 0."""
    number = bits(magnitude(x, lanes), f"int32x{lanes}") <= splat(0x7F800000, "int32", lanes)
    steps = tirx.Select(number, T.nearbyint(x * unit), T.broadcast(real(0.0), lanes))
    return T.cast(T.min(T.max(steps, ends[0]), ends[1]), f"int32x{lanes}")
