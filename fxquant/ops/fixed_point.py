"""Real scales as integers: the multiplier and the shift of the numerics contract."""

from __future__ import annotations

import torch
from torch import Tensor

# Beyond 2^30 every nonzero operand saturates, whatever the multiplier.
LARGEST_SHIFT = 30


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
