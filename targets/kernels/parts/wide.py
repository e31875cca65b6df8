"""Exact sums of 16-bit operands that 32 bits may not hold: 48 bits of them, in two halves.

    sum = high * 2^16 + low
    out = (sum + 2^(drop - 1)) >> drop = high * 2^(16 - drop) + (low + 2^(drop - 1) >> drop)

Tiles sum in 32 bits as ever. Now and then, before any weights could make a sum overflow, they move all but its lowest
16 bits to `high` (see `drain`), which costs next to nothing: at most `TAPS` products of a sum come between two moves.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fxquant.targets.kernels.words.numbers import typed
from fxquant.targets.kernels.words.tir import get, put, spread
from fxquant.targets.tvm_api import I, T, tirx

HALF = 16
# 510 * 128 * 32768 and 16 bits that are left over fit 31.
TAPS = 510


def turns(taps: int) -> int:
    """Turns of a loop between two moves, a power of two, of which each has so many products of a sum."""
    if taps > TAPS:
        raise ValueError(f"wide sums: {taps} products at a time, of at most {TAPS}")
    return 1 << (TAPS // taps).bit_length() - 1


def drain(acc: Any, high: Any, vectors: Iterable[tuple[int, int]]) -> None:
    """Emit the move for `vectors` of sums: where each begins, and its lanes."""
    kind = str(acc.dtype)
    for at, lanes in vectors:
        value = I.Bind(get(acc, at, lanes))
        upper = I.shift_right(typed(value, "int32", lanes), spread(tirx.const(HALF, "int32"), lanes))
        put(high, at, get(high, at, lanes) + upper, lanes)
        put(acc, at, T.bitwise_and(value, spread(tirx.const((1 << HALF) - 1, kind), lanes)), lanes)


def dropped(low: Any, high: Any, drop: int, lanes: int) -> Any:
    """A sum without its last `drop` bits, rounded; `low` is not negative."""
    half, places = tirx.const(1 << drop >> 1, "int32"), tirx.const(drop, "int32")
    rest = I.shift_right(typed(low, "int32", lanes) + spread(half, lanes), spread(places, lanes))
    return high * spread(tirx.const(1 << (HALF - drop), "int32"), lanes) + rest
