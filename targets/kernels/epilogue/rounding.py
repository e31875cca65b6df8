"""The scalar epilogue: one s32 accumulator to one stored element, by the numerics contract.

    q   = clamp(((acc * M << shift) + ((r - zr) * Mr << shift) + 2^31 >> 32) + zero_point, low, high)
    out = table[q + 128]                                          only with a fused 256-entry function

Constant arguments, in this order: `multiplier` s32[Co] and `numbers` s32[7], and with a table `table` s8[256]. All
numbers are read at run time, so that layers of equal shape share code. Without a shift and a residual the product and
its rounding are one `smmulr` on a Cortex-M. Else the sum is taken before it is shifted, so that 64 bits hold it, and
shifted when only its upper bits are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

import numpy as np

from fxquant.errors import LoweringError
from fxquant.targets.kernels.contract.epilogue import Numbers, Raw, Requantization
from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.epilogue import narrow
from fxquant.targets.kernels.parts import params
from fxquant.targets.kernels.words.numbers import MOST_SHIFT, typed, upper_half, whole_range, wide
from fxquant.targets.kernels.words.tir import bits, load, spread
from fxquant.targets.tvm_api import I, T, tirx

ZERO, LOW, HIGH, RESIDUAL_MULTIPLIER, RESIDUAL_ZERO, OFFSET_LOW, OFFSET_HIGH = NUMBERS = range(7)


Instruction = Callable[..., Any]


@dataclass(frozen=True)
class VectorRounding:
    """Instructions over s32 vectors, for a set that has no 64-bit products of vectors.

    `rounded` (a * b + 2^31) >> 32, which is the contract's rounding, and `floor` a * b >> 32; `half_sum` (a + b) >> 1
    of u32; `shifted(a, n)` a << n, saturating, `rounded_shift(a, n)` (a + 2^(n - 1)) >> n of u32; `sum` saturates;
    `narrow` saturates to s8, which stands in the lanes' lowest bytes.
    """

    rounded: Instruction
    floor: Instruction
    half_sum: Instruction
    shifted: Instruction
    rounded_shift: Instruction
    sum: Instruction
    narrow: Instruction


@dataclass(frozen=True)
class LongRounding:
    """For a set with 64-bit products of vectors: `narrowed(a, n, lanes)` is a >> n of s64, saturating to s32."""

    narrowed: Instruction


Vectors = VectorRounding | LongRounding


@dataclass(frozen=True)
class RoundingArguments:
    """The constant arguments of the epilogue inside a function being built."""

    problem: ConvProblem
    multiplier: Any = None
    numbers: Any = None
    table: Any = None
    vector: Vectors | None = None

    def element(self, acc: Any, channel: Any, residual: Any = None) -> Any:
        """What is stored for the s32 accumulator of `channel`; `residual` is the other operand of a fused add."""
        return self.elements(acc, channel, 1, residual)

    def elements(self, acc: Any, channel: Any, lanes: int, residual: Any = None) -> Any:
        """`element` for consecutive channels; all operands are s32 vectors of `lanes` (a scalar for one)."""
        form = self.problem.epilogue
        if isinstance(form, Raw):
            return acc
        if form.narrow:
            return self._finished(self._narrow(acc, channel, lanes), lanes)
        multiplier = load(self.multiplier, channel, lanes) if lanes > 1 else self.multiplier[channel]
        other = None if residual is None else typed(residual, "int32", lanes)
        if isinstance(self.vector, VectorRounding) and lanes > 1:
            return self._by_instructions(acc, multiplier, lanes, other, self.vector)
        if form.shift or other is not None:
            value = self._shifted(self._total(acc, multiplier, lanes, other), lanes)
        else:
            value = _rounded(acc, multiplier, lanes) + spread(self.numbers[ZERO], lanes)
        return self._finished(value, lanes)

    def _narrow(self, acc: Any, channel: Any, lanes: int) -> Any:
        """See `narrow`."""
        return narrow.NarrowArguments(lanes, self.problem.out.shape[0], self.multiplier).scaled(acc, channel)

    def _finished(self, value: Any, lanes: int) -> Any:
        """What is stored for a value that is not clamped yet."""
        value = self._clamped(value, lanes)
        return self.table[value + 128] if self.table is not None else typed(value, self.problem.out.dtype, lanes)

    def _clamped(self, value: Any, lanes: int) -> Any:
        low, high = self._bounds()
        return I.min(I.max(value, spread(low, lanes)), spread(high, lanes))

    def _total(self, acc: Any, multiplier: Any, lanes: int, other: Any) -> Any:
        """The sum before it is shifted, s64."""
        total = typed(acc, "int64", lanes) * typed(multiplier, "int64", lanes)
        if other is not None:
            unit = spread(self.numbers[RESIDUAL_MULTIPLIER], lanes)
            total = total + typed(other, "int64", lanes) * typed(unit, "int64", lanes)
        return I.Bind(total + spread(self._offset(), lanes))

    def _by_instructions(self, acc: Any, multiplier: Any, lanes: int, other: Any, do: VectorRounding) -> Any:
        """The same by instructions of an instruction set."""
        terms = [(acc, multiplier)]
        if other is not None:
            signal = I.Bind(other - spread(self.numbers[RESIDUAL_ZERO], lanes))
            terms.append((signal, spread(self.numbers[RESIDUAL_MULTIPLIER], lanes)))
        dtype, zero = self.problem.out.dtype, spread(self.numbers[ZERO], lanes)
        low, high = self._bounds()
        bounds = (spread(low, lanes), spread(high, lanes))
        shift, saturates = self.problem.epilogue.shift, self.problem.epilogue.whole and dtype == "int8"
        return typed(by_instructions(do, terms, shift, zero, None if saturates else bounds, lanes), dtype, lanes)

    def _shifted(self, total: Any, lanes: int) -> Any:
        shift = self.problem.epilogue.shift
        if isinstance(self.vector, LongRounding) and lanes > 1:
            return self.vector.narrowed(total, 32 - shift, lanes)
        return upper_half(total, shift, lanes)

    def _bounds(self) -> tuple[Any, Any]:
        if self.problem.epilogue.whole:
            return whole_range(self.problem.out.dtype)
        return self.numbers[LOW], self.numbers[HIGH]

    def _offset(self) -> Any:
        low = T.bitwise_and(wide(self.numbers[OFFSET_LOW]), tirx.const(0xFFFFFFFF, "int64"))
        return wide(self.numbers[OFFSET_HIGH]) * tirx.const(1 << 32, "int64") + low


def by_instructions(
    do: VectorRounding,
    terms: Sequence[tuple[Any, Any]],
    shift: int,
    zero: Any,
    bounds: tuple[Any, Any] | None,
    lanes: int,
) -> Any:
    """The rounded sum of one or two products of s32 vectors of `lanes`, clamped to `bounds` or (None) to s8.

    Every sum beyond s32 saturates, as the result would.
    """
    value, unit = terms[0]
    if len(terms) == 1 and not shift:
        total = do.rounded(value, unit) + zero
    else:
        low, upper = I.Bind(_low_product(value, unit, lanes)), do.floor(value, unit)
        for more, other in terms[1:]:
            added = I.Bind(_low_product(more, other, lanes))
            carry = I.shift_right(do.half_sum(low, added), spread(tirx.const(31, "uint32"), lanes))
            low, upper = low + added, upper + do.floor(more, other) + bits(carry, f"int32x{lanes}")
        whole = do.shifted(upper, shift) if shift else upper
        part = bits(do.rounded_shift(low, 32 - shift), f"int32x{lanes}")
        total = do.sum(do.sum(whole, part), zero)
    return do.narrow(total) if bounds is None else I.min(I.max(total, bounds[0]), bounds[1])


def _low_product(a: Any, b: Any, lanes: int) -> Any:
    """The lower half of the product, u32."""
    return bits(a, f"uint32x{lanes}") * bits(b, f"uint32x{lanes}")


def _rounded(acc: Any, multiplier: Any, lanes: int) -> Any:
    """(acc * multiplier + 2^31) >> 32."""
    total = typed(acc, "int64", lanes) * typed(multiplier, "int64", lanes)
    half, size = (spread(tirx.const(n, "int64"), lanes) for n in (1 << 31, 32))
    return typed(I.shift_right(total + half, size), "int32", lanes)


def declare(problem: ConvProblem, vector: Vectors | None = None) -> RoundingArguments:
    """Declare the constant arguments in the function being built. Raises LoweringError for a scale of 2^29 and more."""
    if problem.epilogue.shift > MOST_SHIFT:
        raise LoweringError(
            f"an output scale is 2^{problem.epilogue.shift - 2} times too small for its operands' scales"
        )
    if isinstance(problem.epilogue, Raw):
        return RoundingArguments(problem)
    return RoundingArguments(problem, **params.declare(_params(problem)), vector=vector)


def constants(problem: ConvProblem, numbers: Numbers) -> Mapping[str, np.ndarray[Any, Any]]:
    """The constants that `declare` asked for, by name and in order."""
    if isinstance(problem.epilogue, Raw):
        return {}
    if not isinstance(numbers, Requantization):
        raise LoweringError("ranges of run time have no kernels of their own here")
    return params.pack(_params(problem), numbers)


def _params(problem: ConvProblem) -> list[params.Param]:
    count = problem.out.shape[0]

    def multiplier(numbers: Requantization) -> np.ndarray[Any, Any]:
        channels = np.broadcast_to(np.asarray(numbers.multiplier, np.int32), (count,))
        return narrow.packed(channels, numbers.zero_point) if problem.epilogue.narrow else channels

    def table(numbers: Requantization) -> np.ndarray[Any, Any]:
        return np.asarray(numbers.table).astype(np.int8)

    found = [
        params.Param("multiplier", 3 * count if problem.epilogue.narrow else count, "int32", multiplier, align=4),
        params.Param("numbers", len(NUMBERS), "int32", partial(_numbers, problem), align=4),
    ]
    return [*found, params.Param("table", 256, "int8", table, align=1)] if problem.epilogue.table else found


def _numbers(problem: ConvProblem, numbers: Requantization) -> np.ndarray[Any, Any]:
    row = np.zeros(len(NUMBERS), np.int32)
    row[[ZERO, LOW, HIGH]] = numbers.zero_point, numbers.low, numbers.high
    # With a shift or a residual: rounding, zero points and all that does not depend on data, in one s64.
    scale = 32 - problem.epilogue.shift
    fixed = numbers.residual_zero_point * numbers.residual_multiplier if problem.epilogue.residual else 0
    offset = (1 << (scale - 1)) + (numbers.zero_point << scale) - fixed
    row[[RESIDUAL_MULTIPLIER, RESIDUAL_ZERO]] = numbers.residual_multiplier, numbers.residual_zero_point
    row[[OFFSET_LOW, OFFSET_HIGH]] = np.array([offset], "<i8").view("<i4")
    return row
