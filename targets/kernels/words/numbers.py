"""Exact arithmetic on integers of 32 and 64 bits, and what floats need, as TIR; vectors where `lanes` says so."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxquant.targets.kernels.words.tir import bits, splat, spread
from fxquant.targets.tvm_api import I, T, tirx

MOST_SHIFT = 30
# Floats that every task has for its largest magnitudes: a cache line of its own.
PEAKS = 16


def clamp(value: Any, low: Any, high: Any) -> Any:
    """min(max(value, low), high)."""
    return I.min(I.max(value, low), high)


def wide(value: Any) -> Any:
    """An s32 value as s64."""
    return T.cast(value, "int64")


def product(value: Any, multiplier: Any, shift: int) -> Any:
    """The exact s64 product value * multiplier * 2^shift, saturating far beyond every result type."""
    exact = wide(value) * wide(multiplier)
    if not shift:
        return exact
    edge = tirx.const(1 << (61 - shift), "int64")
    # A product, which is one shift in machine code: C99 leaves the shift of a negative number undefined.
    return clamp(exact, -edge, edge) * tirx.const(1 << shift, "int64")


def rounded(total: Any) -> Any:
    """floor(total / 2^32 + 1/2) as s32."""
    half = tirx.const(1 << 31, "int64")
    return T.cast(I.shift_right(total + half, tirx.const(32, "int64")), "int32")


def dropped(total: Any, drop: int) -> Any:
    """An s64 sum without its last bits, rounded, as s32; with none to lose it is s32 already."""
    if not drop:
        return total
    half, places = (tirx.const(n, "int64") for n in (1 << drop >> 1, drop))
    return T.cast(I.shift_right(total + half, places), "int32")


def whole_range(dtype: str) -> tuple[Any, Any]:
    """The bounds of a clamp to all that a type holds."""
    info = np.iinfo(dtype)
    return tirx.const(int(info.min), "int32"), tirx.const(int(info.max), "int32")


def upper_half(total: Any, shift: int, lanes: int) -> Any:
    """The upper half of a shifted s64 sum, s32; one of 2^29 and more stays beyond every stored type."""
    upper = typed(I.shift_right(total, spread(tirx.const(32, "int64"), lanes)), "int32", lanes)
    if not shift:
        return upper
    # One `ssat` on Arm. At least two below zero: the bits of `rest` fill up the lowest.
    end = 1 << max(MOST_SHIFT - shift, 1)
    low_end, high_end = (spread(tirx.const(n, "int32"), lanes) for n in (-end, end - 1))
    far = I.min(I.max(upper, low_end), high_end)
    rest = I.shift_right(typed(total, "uint32", lanes), spread(tirx.const(32 - shift, "uint32"), lanes))
    # Products by powers of two: C99 leaves the shift of a negative number undefined.
    return far * spread(tirx.const(1 << shift, "int32"), lanes) + typed(rest, "int32", lanes)


def typed(value: Any, dtype: str, lanes: int) -> Any:
    """A vector of `lanes`, or a scalar for one, as another type."""
    return T.cast(value, f"{dtype}x{lanes}" if lanes > 1 else dtype)


def magnitude(x: Any, lanes: int) -> Any:
    """|x|, by its bits."""
    return bits(T.bitwise_and(bits(x, f"int32x{lanes}"), splat(0x7FFFFFFF, "int32", lanes)), f"float32x{lanes}")


def real(value: float) -> Any:
    """A float32 constant."""
    return tirx.const(value, "float32")
