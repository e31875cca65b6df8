"""Kernels that work row by row: softmax, layer normalization.

    void softmax(int32 task, x, powers, numbers, out)     numbers: zero point, qmin, qmax
    void layer_norm(int32 task, x, multiplier, offset, numbers, out)   numbers: qmin, qmax

The arithmetic is that of `fxquant.primitives`, to the bit.
"""

from __future__ import annotations

from functools import partial
from math import prod
from typing import Any

import numpy as np

from fxquant.primitives.normalize import NORM_FRACTION
from fxquant.targets.kernels.contract.kernel import Choice, Kernel, TensorSpec
from fxquant.targets.kernels.contract.operations import LayerNorm, Softmax
from fxquant.targets.kernels.elementwise.map import Operand, stored
from fxquant.targets.kernels.words.numbers import clamp, rounded, wide
from fxquant.targets.kernels.words.pieces import offset, position
from fxquant.targets.kernels.words.tir import argument, prim_func
from fxquant.targets.tvm_api import I, T, tirx


def _i64(value: int) -> Any:
    return tirx.const(value, "int64")


def softmax(problem: Softmax, _numbers: None) -> Choice:
    """The template of any softmax."""
    return Choice("softmax", None, partial(softmax_kernel, problem.x, problem.table, problem.out), {})


def layer_norm(problem: LayerNorm, _numbers: None) -> Choice:
    """The template of any layer normalization."""
    build = partial(layer_norm_kernel, problem.x, problem.out, problem.epsilon, problem.half)
    return Choice("layer_norm", None, build, {})


def softmax_kernel(x: TensorSpec, table: TensorSpec, out: TensorSpec) -> Kernel:
    """One task per row: the largest element, the exact sum of powers, one division, one multiplication each."""
    *batch, length = x.shape
    with prim_func("softmax") as finish:
        task: Any = I.arg("task", I.int32())
        source, powers = Operand("x", x), Operand("powers", table)
        numbers = argument("numbers", 3, "int32", 4)
        target = argument("out", out.extent, out.dtype, 1)
        index = position(task, batch)
        base = offset(index, out.strides[:-1])
        peak = I.alloc_buffer((1,), "int32")
        total = I.alloc_buffer((1,), "int64")
        I.buffer_store(peak, source(*index, 0), [0])
        with I.serial(0, length) as i:
            I.buffer_store(peak, I.max(peak[0], source(*index, i)), [0])
        I.buffer_store(total, _i64(0), [0])

        def power(i: Any) -> Any:
            """The distance to the largest element is never negative: as an unsigned number it stays in its table."""
            bits = np.dtype(x.dtype).itemsize * 8
            below = T.cast(T.cast(peak[0] - source(*index, i), f"uint{bits}"), "int32")
            # A table for few of the codes of 16 bits ends where no difference of them leads.
            return wide(powers(below if table.size >> bits else I.min(below, table.size - 1)))

        with I.serial(0, length) as i:
            I.buffer_store(total, total[0] + power(i), [0])
        reciprocal = I.Bind(tirx.truncdiv(_i64(1 << 40), I.max(total[0], _i64(1))))
        with I.serial(0, length) as i:
            share = rounded(power(i) * reciprocal)
            value = clamp(share + numbers[0], numbers[1], numbers[2])
            I.buffer_store(target, stored(value, out), [base + i * out.strides[-1]])
    return Kernel(finish(), prod(batch))


def layer_norm_kernel(x: TensorSpec, out: TensorSpec, epsilon: int, half: int) -> Kernel:
    """One task per row: exact sums, a bitwise square root, two multiplications per element."""
    *batch, length = x.shape
    with prim_func("layer_norm") as finish:
        task: Any = I.arg("task", I.int32())
        source = Operand("x", x)
        multiplier = argument("multiplier", length, "int32", 4)
        shift = argument("offset", length, "int64", 8)
        numbers = argument("numbers", 2, "int32", 4)
        target = argument("out", out.extent, out.dtype, 1)
        index = position(task, batch)
        base = offset(index, out.strides[:-1])
        sums = I.alloc_buffer((2,), "int64")
        for k in (0, 1):
            I.buffer_store(sums, _i64(0), [k])
        with I.serial(0, length) as i:
            value = wide(source(*index, i))
            I.buffer_store(sums, sums[0] + value, [0])
            I.buffer_store(sums, sums[1] + value * value, [1])
        variance = I.shift_left(sums[1] * _i64(length) - sums[0] * sums[0], _i64(2 * half)) + _i64(epsilon)
        reciprocal, exponent = _inverse_sqrt(I.max(variance, _i64(1)))
        drop = I.Bind(_i64(61 - NORM_FRACTION - half) - exponent)
        one_half = I.Bind(I.shift_left(_i64(1), drop - _i64(1)))
        with I.serial(0, length) as i:
            centred = wide(source(*index, i)) * _i64(length) - sums[0]
            normal = I.shift_right(centred * reciprocal + one_half, drop)
            total = rounded(normal * wide(multiplier[i]) + shift[i])
            value = stored(clamp(total, numbers[0], numbers[1]), out)
            I.buffer_store(target, value, [base + i * out.strides[-1]])
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
