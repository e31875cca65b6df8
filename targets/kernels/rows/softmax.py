"""Softmax on x86, some rows per task: `void f(int32 task, x, powers, numbers, out, scratch)`.

`numbers` are the zero point, qmin, qmax, and `one`; the arithmetic is that of `fxquant.primitives.normalize`,
to the bit. The powers of a row are looked up once, into the scratch memory (loads of single elements, which no vector
instruction does faster), and summed and scaled in vectors; zeros fill up the last one. The result's last vector
overlaps the one before.
"""

from __future__ import annotations

from functools import partial
from math import ceil, prod
from typing import Any

from fxquant.targets.kernels.contract.kernel import Choice, Kernel, TensorSpec
from fxquant.targets.kernels.contract.operations import Softmax
from fxquant.targets.kernels.contract.template import Maker
from fxquant.targets.kernels.elementwise.map import Operand
from fxquant.targets.kernels.rows.plain import SOFTMAX_NUMBERS, one_of
from fxquant.targets.kernels.words.numbers import clamp
from fxquant.targets.kernels.words.pieces import offset, position
from fxquant.targets.kernels.words.tir import argument, bits, load, prim_func, splat
from fxquant.targets.kernels.words.x86 import Isa, high_halves, sign_extend
from fxquant.targets.tvm_api import I, T, tirx

TASK_ELEMENTS = 4096
BYTE_LANES = 32


def takes(x: TensorSpec, out: TensorSpec, isa: Isa) -> bool:
    """Whether `vector_softmax_kernel` is for these: bytes, perhaps to 16 bits, dense rows of at least a vector."""
    dense = x.strides[-1] == out.strides[-1] == 1
    return dense and x.shape[-1] >= BYTE_LANES and x.dtype == "uint8" and out.dtype in ("uint8", "int16")


def vectors(isa: Isa) -> Maker:
    """The template."""

    def make(problem: Softmax, _numbers: None) -> Choice | None:
        if not takes(problem.x, problem.out, isa):
            return None
        build = partial(vector_softmax_kernel, problem.x, problem.table, problem.out, isa)
        return Choice("softmax", None, build, {})

    return make


def vector_softmax_kernel(x: TensorSpec, table: TensorSpec, out: TensorSpec, isa: Isa) -> Kernel:
    """The kernel for what it `takes`."""
    length = x.shape[-1]
    rows = prod(x.shape[:-1])
    tasks = ceil(rows / max(1, TASK_ELEMENTS // length))
    room = ceil(length / isa.lanes) * isa.lanes
    with prim_func("softmax") as finish:
        _Body(x, table, out, isa, room).emit(rows, tasks)
    return Kernel(finish(), tasks, 4 * room)


class _Body:
    """The function while it is being built."""

    def __init__(self, x: TensorSpec, table: TensorSpec, out: TensorSpec, isa: Isa, room: int) -> None:
        self.spec, self.out_spec, self.isa, self.room = x, out, isa, room
        self.task: Any = I.arg("task", I.int32())
        self.x = argument("x", x.extent, "uint8", 1)
        self.powers = Operand("powers", table)
        self.numbers = argument("numbers", SOFTMAX_NUMBERS, "int32", 4)
        self.out = argument("out", out.extent, out.dtype, 1)
        self.scratch = argument("scratch", room, "int32")

    def emit(self, rows: int, tasks: int) -> None:
        """The rows of one task."""
        length = self.spec.shape[-1]
        for i in range(length, self.room):
            I.buffer_store(self.scratch, tirx.const(0, "int32"), [i])
        with I.serial(self.task * rows // tasks, (self.task + 1) * rows // tasks) as row:
            index = position(row, self.spec.shape[:-1])
            source = I.Bind(offset(index, self.spec.strides[:-1]))
            target = I.Bind(offset(index, self.out_spec.strides[:-1]))
            peak = self._peak(source)
            with I.serial(0, length) as i:
                # Never negative: as an unsigned byte it stays in its table.
                below = T.cast(peak - T.cast(self.x[source + i], "int32"), "uint8")
                I.buffer_store(self.scratch, self.powers(T.cast(below, "int32")), [i])
            self._scale(target, self._reciprocal())

    def _peak(self, source: Any) -> Any:
        """The largest byte of a row."""
        length = self.spec.shape[-1]
        best = I.alloc_buffer((BYTE_LANES,), "uint8")
        whole = I.ramp(0, 1, BYTE_LANES)
        I.buffer_store(best, load(self.x, source, BYTE_LANES), [whole])
        with I.serial(1, ceil(length / BYTE_LANES)) as i:
            at = source + T.min(i * BYTE_LANES, length - BYTE_LANES)
            I.buffer_store(best, T.max(best[whole], load(self.x, at, BYTE_LANES)), [whole])
        vector, lanes = I.Bind(best[whole]), BYTE_LANES
        while lanes > 1:
            lanes //= 2
            halves = [tirx.Shuffle([vector], [tirx.const(k + i, "int32") for i in range(lanes)]) for k in (0, lanes)]
            vector = I.Bind(T.max(halves[0], halves[1]))
        return I.Bind(T.cast(vector, "int32"))

    def _reciprocal(self) -> Any:
        """The code of 1 over the sum of the powers, which 31 bits hold, as the quotient is held."""
        lanes = self.isa.lanes
        sums = I.alloc_buffer((lanes,), "int32")
        whole = I.ramp(0, 1, lanes)
        I.buffer_store(sums, splat(0, "int32", lanes), [whole])
        with I.serial(0, self.room // lanes) as i:
            I.buffer_store(sums, sums[whole] + load(self.scratch, i * lanes, lanes), [whole])
        total: Any = sums[0]
        for lane in range(1, lanes):
            total = total + sums[lane]
        one = tirx.const(1, "int64")
        return I.Bind(tirx.truncdiv(one_of(self.numbers), I.max(T.cast(total, "int64"), one)))

    def _scale(self, target: Any, reciprocal: Any) -> None:
        """Powers times the reciprocal, rounded."""
        lanes, length = self.isa.lanes, self.spec.shape[-1]
        pairs, half = lanes // 2, splat(32, "int64", lanes // 2)
        factor = I.Bind(T.broadcast(reciprocal, pairs))
        one_half = splat(1 << 31, "int64", pairs)
        zero, low, high = (I.Bind(T.broadcast(self.numbers[k], lanes)) for k in range(3))
        with I.serial(0, ceil(length / lanes)) as i:
            at = I.Bind(T.min(i * lanes, length - lanes))
            powers = I.Bind(bits(load(self.scratch, at, lanes), f"int64x{pairs}"))
            even, odd = sign_extend(powers, lanes), T.shift_right(powers, half)
            products = [I.Bind(value * sign_extend(factor, lanes) + one_half) for value in (even, odd)]
            value = clamp(high_halves(products[0], products[1], lanes) + zero, low, high)
            stored = T.cast(value + splat(self.out_spec.bias, "int32", lanes), f"{self.out_spec.dtype}x{lanes}")
            I.buffer_store(self.out, stored, [I.ramp(target + at, 1, lanes)])
