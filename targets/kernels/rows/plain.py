"""Kernels that work row by row: softmax, the logarithm of its sum, normalization.

    void softmax(int32 task, x, powers, numbers, out)     numbers: zero point, qmin, qmax, `one` (30 bits last)
    void log_sum(int32 task, x, powers, logarithms, numbers, out)      numbers: zero point, octave, origin
    void layer_norm(int32 task, x, multiplier, offset, numbers, out)   numbers: qmin, qmax; about zero the zero point

The arithmetic is that of `fxquant.primitives`, to the bit.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import numpy as np

from fxquant.primitives.normalize import NORM_FRACTION
from fxquant.targets.kernels.contract.kernel import Choice, Kernel, TensorSpec
from fxquant.targets.kernels.contract.operations import LogSum, Norm, Softmax
from fxquant.targets.kernels.elementwise.map import Operand, stored
from fxquant.targets.kernels.words.numbers import clamp, rounded, wide
from fxquant.targets.kernels.words.pieces import offset, position
from fxquant.targets.kernels.words.tir import argument, prim_func
from fxquant.targets.tvm_api import I, T, tirx

# Of a softmax: those of its result, and the halves of `one`.
SOFTMAX_NUMBERS = 5


def _i64(value: int) -> Any:
    return tirx.const(value, "int64")


class _Row:
    """A row of scores: its largest element, and the powers of the distances from it."""

    def __init__(self, x: TensorSpec, table: TensorSpec, source: Operand, powers: Operand, index: list[Any]) -> None:
        self.x, self.table, self.source, self.powers, self.index = x, table, source, powers, index
        self.largest: Any = I.alloc_buffer((1,), "int32")

    def peak(self) -> Any:
        """The largest element."""
        I.buffer_store(self.largest, self.source(*self.index, 0), [0])
        with I.serial(0, self.x.shape[-1]) as i:
            I.buffer_store(self.largest, I.max(self.largest[0], self.source(*self.index, i)), [0])
        return self.largest[0]

    def power(self, i: Any) -> Any:
        """The distance to the largest element is never negative: as an unsigned number it stays in its table."""
        bits = np.dtype(self.x.dtype).itemsize * 8
        below = T.cast(T.cast(self.largest[0] - self.source(*self.index, i), f"uint{bits}"), "int32")
        # A table for few of the codes of 16 bits ends where no difference of them leads.
        return wide(self.powers(below if self.table.size >> bits else I.min(below, self.table.size - 1)))

    def total(self) -> Any:
        """The exact sum of powers."""
        total = I.alloc_buffer((1,), "int64")
        I.buffer_store(total, _i64(0), [0])
        with I.serial(0, self.x.shape[-1]) as i:
            I.buffer_store(total, total[0] + self.power(i), [0])
        return total[0]


def softmax(problem: Softmax, _numbers: None) -> Choice:
    """The template of any softmax."""
    return Choice("softmax", None, partial(softmax_kernel, problem.x, problem.table, problem.out), {})


def log_sum(problem: LogSum, _numbers: None) -> Choice:
    """The template of any sum."""
    return Choice("log_sum", None, partial(log_sum_kernel, problem), {})


def norm(problem: Norm, _numbers: None) -> Choice:
    """The template of any normalization."""
    return Choice("layer_norm", None, partial(norm_kernel, problem), {})


def one_of(numbers: Any) -> Any:
    """The code of 1 in units of 2^-32, from the last two numbers of a softmax."""
    return wide(numbers[3]) * _i64(1 << 30) + wide(numbers[4])


def softmax_kernel(x: TensorSpec, table: TensorSpec, out: TensorSpec) -> Kernel:
    """One task per row: the largest element, the exact sum of powers, one division, one multiplication each."""
    *batch, length = x.shape
    with prim_func("softmax") as finish:
        task: Any = I.arg("task", I.int32())
        source, powers = Operand("x", x), Operand("powers", table)
        numbers = argument("numbers", SOFTMAX_NUMBERS, "int32", 4)
        target = argument("out", out.extent, out.dtype, 1)
        index = position(task, batch)
        base = offset(index, out.strides[:-1])
        row = _Row(x, table, source, powers, index)
        row.peak()
        reciprocal = I.Bind(tirx.truncdiv(one_of(numbers), I.max(row.total(), _i64(1))))
        with I.serial(0, length) as i:
            value = clamp(rounded(row.power(i) * reciprocal) + numbers[0], numbers[1], numbers[2])
            I.buffer_store(target, stored(value, out), [base + i * out.strides[-1]])
    return Kernel(finish(), prod(batch))


def log_sum_kernel(problem: LogSum) -> Kernel:
    """One task per row: the largest element, the exact sum of powers, its logarithm between two entries of a table."""
    x, table, out = problem.x, problem.table, problem.out
    batch = x.shape[:-1]
    with prim_func("log_sum") as finish:
        task: Any = I.arg("task", I.int32())
        source, powers = Operand("x", x), Operand("powers", table)
        curve = argument("logarithms", 257, "int32", 4)
        numbers = argument("numbers", 3, "int32", 4)
        target = argument("out", out.extent, out.dtype, 1)
        index = position(task, batch)
        row = _Row(x, table, source, powers, index)
        peak, total = row.peak(), row.total()
        state = I.alloc_buffer((2,), "int32")  # the sum with its first bit at 2^30, and by how much it was shifted
        I.buffer_store(state, T.cast(I.max(total, _i64(1)), "int32"), [0])
        I.buffer_store(state, 0, [1])
        for step in (16, 8, 4, 2, 1):
            with I.If(state[0] < tirx.const(1 << (31 - step), "int32")), I.Then():
                I.buffer_store(state, I.shift_left(state[0], tirx.const(step, "int32")), [0])
                I.buffer_store(state, state[1] + step, [1])
        place = I.Bind(T.bitwise_and(I.shift_right(state[0], tirx.const(22, "int32")), tirx.const(255, "int32")))
        rest = T.bitwise_and(state[0], tirx.const((1 << 22) - 1, "int32"))
        climb = I.shift_right(wide(curve[place + 1] - curve[place]) * wide(rest), _i64(22))
        logarithm = curve[place] + T.cast(climb, "int32") - state[1] * numbers[1] + numbers[2]
        value = (peak - numbers[0]) * (1 << problem.fraction) + logarithm
        I.buffer_store(target, stored(value, out), [offset(index, out.strides[:-1])])
    return Kernel(finish(), prod(batch))


def norm_kernel(norm: Norm) -> Kernel:
    """One task per row: exact sums, a bitwise square root, two multiplications per element."""
    x, out = norm.x, norm.out
    *batch, length = x.shape
    with prim_func("layer_norm") as finish:
        task: Any = I.arg("task", I.int32())
        source = Operand("x", x)
        multiplier = argument("multiplier", length, "int32", 4)
        shift = argument("offset", length, "int64", 8)
        numbers = argument("numbers", norm.numbers, "int32", 4)
        target = argument("out", out.extent, out.dtype, 1)
        index = position(task, batch)
        base = offset(index, out.strides[:-1])
        sums = I.alloc_buffer((2,), "int64")
        for k in (0, 1):
            I.buffer_store(sums, _i64(0), [k])
        with I.serial(0, length) as i:
            value = wide(source(*index, i))
            value = value - wide(numbers[2]) if norm.about_zero else value
            I.buffer_store(sums, sums[0] + value, [0])
            I.buffer_store(sums, sums[1] + value * value, [1])
        total = wide(numbers[2]) * _i64(length) if norm.about_zero else sums[0]
        spread = sums[1] * _i64(length) - (_i64(0) if norm.about_zero else sums[0] * sums[0])
        variance = I.shift_left(spread, _i64(2 * norm.half)) + _i64(norm.epsilon)
        reciprocal, exponent = _inverse_sqrt(I.max(variance, _i64(1)))
        drop = I.Bind(_i64(61 - NORM_FRACTION - norm.half) - exponent)
        one_half = I.Bind(I.shift_left(_i64(1), drop - _i64(1)))
        with I.serial(0, length) as i:
            centred = wide(source(*index, i)) * _i64(length) - total
            normal = I.shift_right(centred * reciprocal + one_half, drop)
            result = rounded(normal * wide(multiplier[i]) + shift[i])
            I.buffer_store(target, stored(clamp(result, numbers[0], numbers[1]), out), [base + i * out.strides[-1]])
    return Kernel(finish(), prod(batch))


def _inverse_sqrt(value: Any) -> tuple[Any, Any]:
    """`fxquant.primitives.normalize.inverse_sqrt`, the root bit by bit."""
    state = I.alloc_buffer((3,), "int64")  # the normalized number, its shift, the root
    I.buffer_store(state, value, [0])
    I.buffer_store(state, _i64(0), [1])
    for step in (16, 8, 4, 2, 1):
        with I.If(state[0] < _i64(1 << (62 - 2 * step))), I.Then():
            I.buffer_store(state, I.shift_left(state[0], _i64(2 * step)), [0])
            I.buffer_store(state, state[1] + _i64(step), [1])
    I.buffer_store(state, _i64(0), [2])
    with I.serial(0, 31) as k:
        trial = state[2] + I.shift_left(_i64(1), _i64(30) - T.cast(k, "int64"))
        with I.If(trial * trial <= state[0]), I.Then():
            I.buffer_store(state, trial, [2])
    reciprocal = tirx.truncdiv(_i64(1 << 61), state[2])
    return I.Bind(I.min(reciprocal, _i64((1 << 31) - 1))), state[1]
