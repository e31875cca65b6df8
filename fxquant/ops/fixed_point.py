"""Real scales as integers: the multiplier and the shift of the numerics contract.

A narrow multiplier m * 2^(32 - e) has so few bits that 32-bit integers hold the whole computation:

    (acc * m * 2^(32 - e) + 2^31 >> 32) + zero   =   acc * m + 2^(e - 1) + zero * 2^e >> e

It is a multiplier like any other, so every target gives the same integers; those that multiply more 32-bit integers at
a time than they do 64-bit ones may look at it and take the right side.
"""

from __future__ import annotations

import torch
from torch import Tensor

# Beyond 2^30 every nonzero operand saturates, whatever the multiplier.
LARGEST_SHIFT = 30
# Zero points as they are stored, and the result of 8 bits before it is clamped, which a narrow sum holds as well.
_ZERO_POINT, _RESULT = 256, 256
NARROW_ERROR = 1 / 8  # of a step of the result, at most


def encode(*scales: Tensor) -> tuple[int, list[Tensor]]:
    """One shift for all, and per scale the s32 multiplier round(scale * 2^(32 - shift)) with magnitude below 2^31.

    The shift is the smallest that keeps every multiplier in range; it is 0 for scales below one half.
    """
    largest = max(float(s.abs().max()) for s in scales)
    shift = 0
    while shift < LARGEST_SHIFT and round(largest * 2.0 ** (32 - shift)) >= 1 << 31:
        shift += 1
    top = (1 << 31) - 1
    return shift, [torch.round(s.double() * 2.0 ** (32 - shift)).clamp(-top, top).to(torch.int32) for s in scales]


def encode_narrow(scale: Tensor, largest: Tensor) -> Tensor | None:
    """Narrow multipliers of `scale` for sums of a magnitude up to `largest`, both by channel, and results of 8 bits.

    The widest that fit; None where one of them would move a result by more than `NARROW_ERROR`, or where a scale is
    negative or at least one half.
    """
    scale, largest = scale.double(), largest.double()
    if bool((scale < 0).any()):
        return None
    shift, multiplier = torch.ones_like(largest), torch.zeros_like(largest)
    for bits in range(2, 32):  # each one that fits is finer than the one before
        tried = torch.round(scale * 2.0**bits)
        fits = largest * tried + (_ZERO_POINT + 1) * 2.0**bits < 1 << 31
        shift, multiplier = torch.where(fits, bits, shift), torch.where(fits, tried, multiplier)
    units = multiplier * 2.0**-shift
    reached = torch.minimum(largest, _RESULT / scale.clamp(min=2.0**-40))
    if bool((units >= 0.5).any()) or bool(((units - scale).abs() * reached > NARROW_ERROR).any()):
        return None  # one half is no s32 at this shift, and may come of rounding
    return (units * 2.0**32).to(torch.int32)


def is_narrow(multiplier: Tensor, largest: Tensor) -> Tensor:
    """Where s32 `multiplier`s are narrow for sums of a magnitude up to `largest`, as `encode_narrow` makes them."""
    units = multiplier.double()
    lowest = (multiplier & -multiplier).double()  # the lowest bit that is set
    bits = torch.where(multiplier == 0, 2, 32 - torch.log2(lowest.clamp(min=1.0)))
    return largest.double() * (units * 2.0 ** (bits - 32)) + (_ZERO_POINT + 1) * 2.0**bits < 1 << 31
