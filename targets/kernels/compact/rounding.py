"""The scalar epilogue: one s32 accumulator to one stored element, by the numerics contract.

    q   = clamp(((acc * M << shift) + ((r - zr) * Mr << shift) + 2^31 >> 32) + zero_point, low, high)
    out = table[q + 128]                                          only with a fused 256-entry function

Constant arguments, in this order: `multiplier` s32[Co] and `numbers` s32[6], and with a table `table` s8[256]. All
numbers are read at run time, so that layers of equal shape share code. Without a shift and a residual the product and
its rounding are one `smmulr` on a Cortex-M. Else the sum is taken before it is shifted, so that 64 bits hold it, and
shifted when only its upper bits are left.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxquant.errors import LoweringError
from fxquant.targets.kernels.compact.problem import ConvWindow
from fxquant.targets.kernels.epilogue import Requantization
from fxquant.targets.kernels.map import wide
from fxquant.targets.kernels.simd import argument, bits, load
from fxquant.targets.tvm_api import I, T, tirx

ZERO, LOW, HIGH, RESIDUAL_MULTIPLIER, OFFSET_LOW, OFFSET_HIGH = NUMBERS = range(6)
MOST_SHIFT = 30


Multiply = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class MultiplyHigh:
    """Instructions over s32 vectors: (a * b + 2^31) >> 32, which is the contract's rounding, and a * b >> 32."""

    rounded: Multiply
    floor: Multiply


@dataclass(frozen=True)
class Rounding:
    """The constant arguments of the epilogue inside a function being built."""

    problem: ConvWindow
    multiplier: Any = None
    numbers: Any = None
    table: Any = None
    multiply_high: MultiplyHigh | None = None

    def element(self, acc: Any, channel: Any, residual: Any = None) -> Any:
        """What is stored for the s32 accumulator of `channel`; `residual` is the other operand of a fused add."""
        return self.elements(acc, channel, 1, residual)

    def elements(self, acc: Any, channel: Any, lanes: int, residual: Any = None) -> Any:
        """`element` for consecutive channels; all operands are s32 vectors of `lanes` (a scalar for one)."""
        form, out = self.problem.epilogue, self.problem.out
        if form.raw:
            return acc
        multiplier = load(self.multiplier, channel, lanes) if lanes > 1 else self.multiplier[channel]
        other = None if residual is None else _typed(residual, "int32", lanes)
        if self.multiply_high is not None and lanes > 1:
            value = self._by_high_halves(acc, multiplier, lanes, other, self.multiply_high)
        elif form.shift or other is not None:
            value = self._shifted(*self._halves(acc, multiplier, lanes, other), lanes)
        else:
            value = _rounded(acc, multiplier, lanes) + _spread(self.numbers[ZERO], lanes)
        low, high = self._bounds()
        value = I.min(I.max(value, _spread(low, lanes)), _spread(high, lanes))
        return self.table[value + 128] if self.table is not None else _typed(value, out.dtype, lanes)

    def _halves(self, acc: Any, multiplier: Any, lanes: int, other: Any) -> tuple[Any, Any]:
        """The upper (s32) and lower (u32) half of the sum before it is shifted."""
        total = _typed(acc, "int64", lanes) * _typed(multiplier, "int64", lanes)
        if other is not None:
            unit = _spread(self.numbers[RESIDUAL_MULTIPLIER], lanes)
            total = total + _typed(other, "int64", lanes) * _typed(unit, "int64", lanes)
        total = I.Bind(total + _spread(self._offset(), lanes))
        upper = _typed(I.shift_right(total, _spread(tirx.const(32, "int64"), lanes)), "int32", lanes)
        return upper, _typed(total, "uint32", lanes)

    def _by_high_halves(self, acc: Any, multiplier: Any, lanes: int, other: Any, high: MultiplyHigh) -> Any:
        """The same by instructions for high halves; the low halves are added for their carries."""
        form, unsigned = self.problem.epilogue, f"uint32x{lanes}"
        if other is None and not form.shift:
            return high.rounded(acc, multiplier) + _spread(self.numbers[ZERO], lanes)
        low = I.Bind(bits(acc, unsigned) * bits(multiplier, unsigned))
        upper = bits(high.floor(acc, multiplier), unsigned) + bits(_spread(self.numbers[OFFSET_HIGH], lanes), unsigned)
        terms = [bits(_spread(self.numbers[OFFSET_LOW], lanes), unsigned)]
        if other is not None:
            unit = _spread(self.numbers[RESIDUAL_MULTIPLIER], lanes)
            terms.append(bits(other, unsigned) * bits(unit, unsigned))
            upper = upper + bits(high.floor(other, unit), unsigned)
        for term in terms:
            more = I.Bind(low + term)
            upper, low = upper + _carry(low, term, more, lanes), more
        return self._shifted(bits(upper, f"int32x{lanes}"), low, lanes)

    def _shifted(self, upper: Any, low: Any, lanes: int) -> Any:
        """The upper half of the shifted sum; one of 2^30 and more is beyond every stored type."""
        shift = self.problem.epilogue.shift
        if not shift:
            return upper
        low_end, high_end = (_spread(tirx.const(n << (MOST_SHIFT - shift), "int32"), lanes) for n in (-1, 1))
        far = I.min(I.max(upper, low_end), high_end)
        rest = I.shift_right(low, _spread(tirx.const(32 - shift, "uint32"), lanes))
        return I.shift_left(far, _spread(tirx.const(shift, "int32"), lanes)) + _typed(rest, "int32", lanes)

    def _bounds(self) -> tuple[Any, Any]:
        if self.problem.saturates:
            info = np.iinfo(self.problem.out.dtype)
            return tirx.const(info.min, "int32"), tirx.const(info.max, "int32")
        return self.numbers[LOW], self.numbers[HIGH]

    def _offset(self) -> Any:
        low = T.bitwise_and(wide(self.numbers[OFFSET_LOW]), tirx.const(0xFFFFFFFF, "int64"))
        return T.bitwise_or(I.shift_left(wide(self.numbers[OFFSET_HIGH]), tirx.const(32, "int64")), low)


def _carry(a: Any, b: Any, total: Any, lanes: int) -> Any:
    """1 where the u32 sum of a and b wrapped around; TVM would decide `total < a` as if nothing ever did."""
    both = T.bitwise_or(T.bitwise_and(a, b), T.bitwise_and(T.bitwise_or(a, b), T.bitwise_not(total)))
    return I.shift_right(both, _spread(tirx.const(31, "uint32"), lanes))


def _typed(value: Any, dtype: str, lanes: int) -> Any:
    return T.cast(value, f"{dtype}x{lanes}" if lanes > 1 else dtype)


def _spread(value: Any, lanes: int) -> Any:
    return T.broadcast(value, lanes) if lanes > 1 else value


def _rounded(acc: Any, multiplier: Any, lanes: int) -> Any:
    """(acc * multiplier + 2^31) >> 32."""
    total = _typed(acc, "int64", lanes) * _typed(multiplier, "int64", lanes)
    half, size = (_spread(tirx.const(n, "int64"), lanes) for n in (1 << 31, 32))
    return _typed(I.shift_right(total + half, size), "int32", lanes)


def declare(problem: ConvWindow, multiply_high: MultiplyHigh | None = None) -> Rounding:
    """Declare the constant arguments in the function being built. Raises LoweringError for a scale of 2^29 and more."""
    if problem.epilogue.shift > MOST_SHIFT:
        raise LoweringError(
            f"an output scale is 2^{problem.epilogue.shift - 2} times too small for its operands' scales"
        )
    if problem.epilogue.raw:
        return Rounding(problem)
    multiplier = argument("multiplier", problem.out.shape[0], "int32", 4)
    numbers = argument("numbers", len(NUMBERS), "int32", 4)
    table = argument("table", 256, "int8", 1) if problem.epilogue.table else None
    return Rounding(problem, multiplier, numbers, table, multiply_high)


def constants(problem: ConvWindow, numbers: Requantization) -> Mapping[str, np.ndarray[Any, Any]]:
    """The constants that `declare` asked for, by name and in order."""
    if problem.epilogue.raw:
        return {}
    row = np.zeros(len(NUMBERS), np.int32)
    row[[ZERO, LOW, HIGH]] = numbers.zero_point, numbers.low, numbers.high
    # With a shift or a residual: rounding, zero points and all that does not depend on data, in one s64.
    scale = 32 - problem.epilogue.shift
    fixed = numbers.residual_zero_point * numbers.residual_multiplier
    offset = (1 << (scale - 1)) + (numbers.zero_point << scale) - fixed
    row[RESIDUAL_MULTIPLIER] = numbers.residual_multiplier
    row[[OFFSET_LOW, OFFSET_HIGH]] = np.array([offset], "<i8").view("<i4")
    channels = np.broadcast_to(np.asarray(numbers.multiplier, np.int32), (problem.out.shape[0],))
    packed: dict[str, np.ndarray[Any, Any]] = {"multiplier": np.ascontiguousarray(channels), "numbers": row}
    if problem.epilogue.table and numbers.table is not None:
        packed["table"] = numbers.table.astype(np.int8)
    return packed
