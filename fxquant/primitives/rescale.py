"""From accumulators to 8 or 16 bits: requantize, and the addition of two terms with a single rounding.

    q = clamp(floor(x * 2^shift * multiplier / 2^32 + 1/2) + zero_point, qmin, qmax)

`multiplier` is s32 and broadcasts against the operand: shape (1,), (1, C, 1, 1), or (1, 1, H, W) for ragged averages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.primitives.registry import broadcast, narrow, primitive, rounded, same_shape, scaled, storage


@primitive(same_shape)
def requantize(
    x: Tensor, multiplier: Tensor, shift: int, zero_in: int, zero_point: int, qmin: int, qmax: int
) -> Tensor:
    """Rescale `x - zero_in` (accumulators, or integers of another scale) to a new scale and zero point."""
    return narrow(rounded(scaled(x.to(torch.int32) - zero_in, multiplier, shift)) + zero_point, qmin, qmax)


def _broadcast(a: Tensor, _am: Tensor, _as: int, _az: int, b: Tensor, *rest: int | Tensor) -> Tensor:
    return broadcast(a, b, storage(int(rest[-2]), int(rest[-1])))


@primitive(_broadcast)
def add(
    a: Tensor,
    a_multiplier: Tensor,
    a_shift: int,
    a_zero: int,
    b: Tensor,
    b_multiplier: Tensor,
    b_shift: int,
    b_zero: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> Tensor:
    """a' + b' with one rounding for both; either may be an accumulator, and a negative multiplier subtracts."""
    left = scaled(a.to(torch.int32) - a_zero, a_multiplier, a_shift)
    right = scaled(b.to(torch.int32) - b_zero, b_multiplier, b_shift)
    return narrow(rounded(left + right) + zero_point, qmin, qmax)


def _looked_up(x: Tensor, table: Tensor, low: int) -> Tensor:
    return x.new_empty(x.shape, dtype=table.dtype)


@primitive(_looked_up)
def lookup(x: Tensor, table: Tensor, low: int) -> Tensor:
    """table[x - low]: any function of one 8-bit (or 16-bit) value, exactly rounded when the table was made."""
    return table[x.to(torch.int64) - low]
