"""Weights of fewer than 8 bits: packed constants, and the bytes that they stand for."""

from __future__ import annotations

from math import prod

import torch
from torch import Tensor

from fxquant.packing import STORED, packed_bytes
from fxquant.primitives.registry import primitive


def _unpacked(packed: Tensor, bits: int, shape: list[int]) -> Tensor:
    if bits not in STORED[:-1] or packed.dtype is not torch.uint8 or packed.ndim != 1 or min(shape, default=1) < 0:
        raise ValueError(f"{packed.dtype} of {bits} bits cannot be unpacked as {shape}")
    if packed.shape[0] != packed_bytes(prod(shape), bits):
        raise ValueError(f"{packed.shape[0]} bytes do not hold {shape} of {bits} bits")
    return packed.new_empty(shape, dtype=torch.int8)


@primitive(_unpacked)
def unpack(packed: Tensor, bits: int, shape: list[int]) -> Tensor:
    """s8 of this shape, row-major, of 4 or 2 bits each in the bytes of `packed`, the first one uppermost."""
    parts = torch.arange(0, 8, bits, dtype=torch.int32)
    shifted = (packed.to(torch.int32)[:, None] << parts).to(torch.uint8).view(torch.int8)
    return (shifted >> (8 - bits)).flatten()[: prod(shape)].reshape(shape).clone()
