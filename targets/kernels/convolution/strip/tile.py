"""Tiles of registers of the strip kernels."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Tile:
    """Pixels and channels in registers, and steps per turn of the inner loop.

    `parts` blocks of channels are summed one after the other and stored together; `ahead`: their weights are widened
    for a whole row of pixels.
    """

    pixels: int
    channels: int
    unroll: int
    parts: int = 1
    ahead: bool = False
