"""From accumulators to 8 or 16 bits with a single rounding: requantize, sums and quotients of two values, tables.

    q = clamp(floor(x * 2^shift * multiplier / 2^32 + 1/2) + zero_point, qmin, qmax)

`multiplier` is s32 and broadcasts against the operand: shape (1,), (1, C, 1, 1), or (1, 1, H, W) for ragged averages.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.primitives.registry import Rounded, broadcast, narrow, primitive, rounded, same_shape, scaled, storage


@primitive(same_shape, rounds=(Rounded("x", "multiplier", "shift"),), is_image=True)
def requantize(
    x: Tensor, multiplier: Tensor, shift: int, zero_in: int, zero_point: int, qmin: int, qmax: int
) -> Tensor:
    """Rescale `x - zero_in` (accumulators, or integers of another scale) to a new scale and zero point."""
    return narrow(rounded(scaled(x.to(torch.int32) - zero_in, multiplier, shift)) + zero_point, qmin, qmax)


def _broadcast(a: Tensor, _am: Tensor, _as: int, _az: int, b: Tensor, *rest: int | Tensor) -> Tensor:
    return broadcast(a, b, storage(int(rest[-2]), int(rest[-1])))


@primitive(
    _broadcast, rounds=(Rounded("a", "a_multiplier", "a_shift"), Rounded("b", "b_multiplier", "b_shift")), is_image=True
)
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


@primitive(_looked_up, is_image=True)
def lookup(x: Tensor, table: Tensor, low: int) -> Tensor:
    """table[x - low]: any function of one 8-bit (or 16-bit) value, exactly rounded when the table was made."""
    return table[x.to(torch.int64) - low]


# Fractional bits of the knots of a curve: a difference of two, times a place of 8 bits, stays within 32 bits.
CURVE_FRACTION = 6


@primitive(same_shape, is_image=True)
def curve(x: Tensor, knots: Tensor, low: int, step: int, qmin: int, qmax: int) -> Tensor:
    """A function of one 16-bit value by straight lines between `knots`, s32 codes with CURVE_FRACTION more bits.

    There is a knot every 2^step codes, `step` at most 8, the first at `low`.
    """
    place = x.to(torch.int64) - low
    left, right = knots[place >> step].to(torch.int64), knots[(place >> step) + 1].to(torch.int64)
    value = left + ((right - left) * (place & (1 << step) - 1) >> step)
    return narrow(value + (1 << CURVE_FRACTION >> 1) >> CURVE_FRACTION, qmin, qmax)


@primitive(same_shape)
def prelu(
    x: Tensor, above: Tensor, below: Tensor, shift: int, zero_in: int, zero_point: int, qmin: int, qmax: int
) -> Tensor:
    """Rescale `x - zero_in` by the multiplier `above` where it is not negative, else by `below`; one rounding."""
    centred = x.to(torch.int32) - zero_in
    total = torch.where(centred < 0, scaled(centred, below, shift), scaled(centred, above, shift))
    return narrow(rounded(total) + zero_point, qmin, qmax)


def _quotient(a: Tensor, _zero: int, b: Tensor, *rest: int | Tensor) -> Tensor:
    return broadcast(a, b, storage(int(rest[-2]), int(rest[-1])))


@primitive(_quotient)
def div(
    a: Tensor,
    a_zero: int,
    b: Tensor,
    b_zero: int,
    multiplier: Tensor,
    shift: int,
    zero_point: int,
    qmin: int,
    qmax: int,
) -> Tensor:
    """(a - a_zero) * scale / (b - b_zero), rounded once: the quotient has 32 fractional bits, cut off towards zero.

    A divisor of zero counts as one step.
    """
    divisor = b.to(torch.int64) - b_zero
    quotient = torch.div(
        scaled(a.to(torch.int32) - a_zero, multiplier, shift),
        torch.where(divisor == 0, 1, divisor),
        rounding_mode="trunc",
    )
    return narrow(rounded(quotient) + zero_point, qmin, qmax)


def _truths(a: Tensor, _am: Tensor, _az: int, b: Tensor, *rest: object) -> Tensor:
    return broadcast(a, b, torch.bool)


@primitive(_truths)
def above(
    a: Tensor, a_multiplier: Tensor, a_zero: int, b: Tensor, b_multiplier: Tensor, b_zero: int, shift: int, equal: bool
) -> Tensor:
    """Whether a' > b', or with `equal` a' >= b', of two scaled values; nothing is rounded."""
    left = scaled(a.to(torch.int32) - a_zero, a_multiplier, shift)
    right = scaled(b.to(torch.int32) - b_zero, b_multiplier, shift)
    return left >= right if equal else left > right
