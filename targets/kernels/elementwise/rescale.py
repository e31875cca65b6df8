"""Requantize, and the addition of two tensors: vectors where a set has instructions that round them, else scalars.

    void f(int32 task, in0, multiplier0, [in1, multiplier1], numbers, out)

    out = clamp((((in0 - z0) * multiplier0 + (in1 - z1) * multiplier1) * 2^shift + 2^31 >> 32) + zero, low, high)

Operands and result are laid out alike and without gaps, multipliers are one s32 each, and `numbers` s32 are the zero
points of the operands, then zero, low, high. Every element is read before it is written, and only then.
"""

from __future__ import annotations

from functools import partial, reduce
from operator import add

import numpy as np

from fxquant.targets.kernels.contract.kernel import Choice, Kernel, TensorSpec
from fxquant.targets.kernels.contract.operations import Rescale
from fxquant.targets.kernels.contract.template import Maker
from fxquant.targets.kernels.epilogue.rounding import VectorRounding, by_instructions
from fxquant.targets.kernels.words.numbers import MOST_SHIFT, clamp, typed, upper_half, whole_range, wide
from fxquant.targets.kernels.words.tir import argument, get, prim_func, put, spread
from fxquant.targets.tvm_api import I, tirx

LANES = 4


def dense(do: VectorRounding | None = None) -> Maker:
    """The template: s8 or s16, or one operand of s32, without gaps."""

    def make(problem: Rescale, _numbers: None) -> Choice | None:
        inputs, out = problem.inputs, problem.out
        narrow = all(x.dtype in ("int8", "int16") for x in inputs) or len(inputs) == 1
        alike = all((x.shape, x.strides, x.bias) == (out.shape, out.strides, 0) for x in inputs)
        without_gaps = out.extent == out.size > 0 and out.bias == 0
        fits = narrow and alike and without_gaps and problem.shift <= _most_shift(inputs) and _is_stored(out)
        name = "add_dense" if len(inputs) == 2 else "requantize_dense"
        return Choice(name, None, partial(rescale_kernel, problem, do), {}) if fits else None

    return make


def _most_shift(inputs: tuple[TensorSpec, ...]) -> int:
    """Of two terms each saturates at 2^61 by itself, and here they are added before they are shifted.

    So they may differ by more than that only where neither can get there: below 2^(bits + 31) unshifted.
    """
    if len(inputs) == 1:
        return MOST_SHIFT
    return min(MOST_SHIFT, *(61 - 31 - np.dtype(x.dtype).itemsize * 8 for x in inputs))


def _is_stored(out: TensorSpec) -> bool:
    return out.dtype in ("int8", "int16")


def rescale_kernel(problem: Rescale, do: VectorRounding | None) -> Kernel:
    """One task: the whole tensor. `do` rounds vectors; without it, or where a part of one were left, it is scalars."""
    count, lanes = len(problem.inputs), LANES if do is not None and problem.out.size % LANES == 0 else 1
    with prim_func("rescale") as finish:
        I.arg("task", I.int32())
        operands = []
        for i, spec in enumerate(problem.inputs):
            operands.append((argument(f"in{i}", spec.extent, spec.dtype, 1), argument(f"multiplier{i}", 1, "int32", 4)))
        numbers = argument("numbers", count + 3, "int32", 4)
        out = argument("out", problem.out.extent, problem.out.dtype, 1)
        units = [I.Bind(spread(multiplier[0], lanes)) for _, multiplier in operands]
        zeros = [I.Bind(numbers[i]) for i in range(count)]
        zero, low, high = (I.Bind(spread(numbers[count + i], lanes)) for i in range(3))
        with I.serial(0, problem.out.size // lanes) as i:
            terms = []
            for (buffer, _), offset, unit in zip(operands, zeros, units, strict=True):
                value = typed(get(buffer, i * lanes, lanes), "int32", lanes)
                terms.append((I.Bind(value - spread(offset, lanes)), unit))
            if do is not None and lanes > 1:
                whole = problem.saturates and problem.out.dtype == "int8"
                stored = by_instructions(do, terms, problem.shift, zero, None if whole else (low, high), lanes)
            else:
                total = reduce(add, (wide(value) * wide(unit) for value, unit in terms))
                total = total + tirx.const(1 << (31 - problem.shift), "int64")
                if problem.saturates:
                    low, high = whole_range(problem.out.dtype)
                if problem.shift == MOST_SHIFT:  # the lowest value is -2^31, and nothing can be added to it
                    total = total + wide(zero) * tirx.const(1 << (32 - problem.shift), "int64")
                    stored = clamp(upper_half(total, problem.shift, 1), low, high)
                else:
                    stored = clamp(upper_half(total, problem.shift, 1) + zero, low, high)
            put(out, i * lanes, typed(stored, problem.out.dtype, lanes), lanes)
    return Kernel(finish(), 1)
