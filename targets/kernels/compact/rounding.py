"""The scalar epilogue: one s32 accumulator to one stored element, by the numerics contract.

    q   = clamp(((acc * M << shift) + ((r - zr) * Mr << shift) + 2^31 >> 32) + zero_point, low, high)
    out = table[q + 128]                                          only with a fused 256-entry function

Constant arguments, in this order: `multiplier` s32[Co] and `numbers` s32[6], and with a table `table` s8[256]. All
numbers are read at run time, so that layers of equal shape share code. Without a shift and a residual the product and
its rounding are one `smmulr` on a Cortex-M.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxquant.targets.kernels.compact.problem import ConvWindow
from fxquant.targets.kernels.epilogue import Requantization
from fxquant.targets.kernels.map import clamp, product, rounded, wide
from fxquant.targets.kernels.simd import argument, load
from fxquant.targets.tvm_api import I, T, tirx

ZERO, LOW, HIGH, RESIDUAL_MULTIPLIER, OFFSET_LOW, OFFSET_HIGH = NUMBERS = range(6)


# (a * b + 2^31) >> 32 over s32 vectors, as one instruction of a machine.
MultiplyHigh = Callable[[Any, Any], Any]


@dataclass(frozen=True)
class Rounding:
    """The constant arguments of the epilogue inside a function being built."""

    problem: ConvWindow
    multiplier: Any = None
    numbers: Any = None
    table: Any = None
    multiply_high: MultiplyHigh | None = None

    def elements(self, acc: Any, channel: Any, lanes: int, residual: Any = None) -> Any:
        """`element` for consecutive channels; all operands are s32 vectors of `lanes` (a scalar for one)."""
        form, out = self.problem.epilogue, self.problem.out
        if lanes == 1:
            return self.element(acc, channel, residual)
        if form.raw:
            return acc
        multiplier = load(self.multiplier, channel, lanes)
        if self.multiply_high is not None and residual is None and not form.shift:
            value = self.multiply_high(acc, multiplier) + T.broadcast(self.numbers[ZERO], lanes)
        else:
            value = self._long(acc, multiplier, lanes, residual)
        low, high = self._bounds()
        value = T.min(T.max(value, T.broadcast(low, lanes)), T.broadcast(high, lanes))
        return T.cast(value, f"{out.dtype}x{lanes}")

    def _long(self, acc: Any, multiplier: Any, lanes: int, residual: Any) -> Any:
        """The rounded sum by products of 64 bits."""
        form, kind = self.problem.epilogue, f"int64x{lanes}"

        def splat(number: int) -> Any:
            return T.broadcast(tirx.const(number, "int64"), lanes)

        total = T.cast(acc, kind) * T.cast(multiplier, kind)
        if form.shift:
            edge = 1 << (61 - form.shift)
            total = I.shift_left(T.min(T.max(total, splat(-edge)), splat(edge)), splat(form.shift))
        if residual is None:
            value = T.cast(I.shift_right(total + splat(1 << 31), splat(32)), f"int32x{lanes}")
            return value + T.broadcast(self.numbers[ZERO], lanes)
        unit = T.cast(residual, kind) * T.broadcast(wide(self.numbers[RESIDUAL_MULTIPLIER]), lanes)
        total = total + (I.shift_left(unit, splat(form.shift)) if form.shift else unit)
        return T.cast(I.shift_right(total + T.broadcast(self._offset(), lanes), splat(32)), f"int32x{lanes}")

    def _bounds(self) -> tuple[Any, Any]:
        if self.problem.saturates:
            info = np.iinfo(self.problem.out.dtype)
            return tirx.const(info.min, "int32"), tirx.const(info.max, "int32")
        return self.numbers[LOW], self.numbers[HIGH]

    def element(self, acc: Any, channel: Any, residual: Any = None) -> Any:
        """What is stored for the s32 accumulator of `channel`; `residual` is the other operand of a fused add."""
        form, out = self.problem.epilogue, self.problem.out
        if form.raw:
            return acc
        total = product(acc, self.multiplier[channel], form.shift)
        if residual is not None:
            unit = wide(T.cast(residual, "int32")) * wide(self.numbers[RESIDUAL_MULTIPLIER])
            total = total + (I.shift_left(unit, tirx.const(form.shift, "int64")) if form.shift else unit)
            value = T.cast(I.shift_right(total + self._offset(), tirx.const(32, "int64")), "int32")
        else:
            value = rounded(total) + self.numbers[ZERO]
        value = clamp(value, *self._bounds())
        return self.table[value + 128] if self.table is not None else T.cast(value, out.dtype)

    def _offset(self) -> Any:
        low = T.bitwise_and(wide(self.numbers[OFFSET_LOW]), tirx.const(0xFFFFFFFF, "int64"))
        return T.bitwise_or(I.shift_left(wide(self.numbers[OFFSET_HIGH]), tirx.const(32, "int64")), low)


def declare(problem: ConvWindow, multiply_high: MultiplyHigh | None = None) -> Rounding:
    """Declare the constant arguments in the function being built."""
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
    # With a residual: rounding, zero points and all that does not depend on data, in one s64.
    unit = numbers.residual_multiplier << problem.epilogue.shift
    offset = (1 << 31) + (numbers.zero_point << 32) - numbers.residual_zero_point * unit
    row[RESIDUAL_MULTIPLIER] = numbers.residual_multiplier
    row[[OFFSET_LOW, OFFSET_HIGH]] = np.array([offset], "<i8").view("<i4")
    channels = np.broadcast_to(np.asarray(numbers.multiplier, np.int32), (problem.out.shape[0],))
    packed: dict[str, np.ndarray[Any, Any]] = {"multiplier": np.ascontiguousarray(channels), "numbers": row}
    if problem.epilogue.table and numbers.table is not None:
        packed["table"] = numbers.table.astype(np.int8)
    return packed
