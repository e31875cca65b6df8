"""Tiles of registers of the strip kernels."""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil


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


def balanced(width: int, most: int) -> int:
    """Pixels of a tile, so that as many tiles as tiles of `most` pixels compute the fewest twice."""
    return ceil(width / ceil(width / most))


def divisors(count: int, most: int) -> list[int]:
    """The divisors of `count` up to `most`, largest first."""
    return [n for n in range(min(count, most), 0, -1) if count % n == 0]
