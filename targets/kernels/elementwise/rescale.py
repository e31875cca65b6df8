"""Requantize, and the addition of two tensors: vectors where a set has instructions that round them, else scalars.

    void f(int32 task, in0, multiplier0, [in1, multiplier1], numbers, out)

    out = clamp((((in0 - z0) * multiplier0 + (in1 - z1) * multiplier1) * 2^shift + 2^31 >> 32) + zero, low, high)

Operands and result are laid out alike and without gaps, multipliers are one s32 each, and `numbers` s32 are the zero
points of the operands, then zero, low, high. Every element is read before it is written, and only then.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import reduce
from operator import add

from fxquant.targets.kernels.contract.kernel import Kernel, TensorSpec
from fxquant.targets.kernels.elementwise.map import clamp, wide
from fxquant.targets.kernels.epilogue.rounding import (
    MOST_SHIFT,
    VectorRounding,
    by_instructions,
    typed,
    upper_half,
    whole_range,
)
from fxquant.targets.kernels.parts.sums import get, put, spread
from fxquant.targets.kernels.words.x86 import argument, prim_func
from fxquant.targets.tvm_api import I, tirx

LANES = 4


@dataclass(frozen=True)
class Rescale:
    """One or two operands and their common shift; `saturates`: the clamp is to the whole range of the result's type."""

    inputs: tuple[TensorSpec, ...]
    out: TensorSpec
    shift: int
    saturates: bool

    @property
    def fits(self) -> bool:
        """Whether this template computes it: s8 or s16, or one operand of s32, without gaps."""
        narrow = all(x.dtype in ("int8", "int16") for x in self.inputs) or len(self.inputs) == 1
        alike = all((x.shape, x.strides, x.bias) == (self.out.shape, self.out.strides, 0) for x in self.inputs)
        dense = self.out.extent == self.out.size > 0 and self.out.bias == 0
        return narrow and alike and dense and self.shift <= MOST_SHIFT and self.out.dtype in ("int8", "int16")


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
                stored = by_instructions(do, terms, problem.shift, zero, None if whole else (low, high))
            else:
                total = reduce(add, (wide(value) * wide(unit) for value, unit in terms))
                half = tirx.const(1 << (31 - problem.shift), "int64")
                if problem.saturates:
                    low, high = whole_range(problem.out.dtype)
                stored = clamp(upper_half(total + half, problem.shift, 1) + zero, low, high)
            put(out, i * lanes, typed(stored, problem.out.dtype, lanes), lanes)
    return Kernel(finish(), 1)
