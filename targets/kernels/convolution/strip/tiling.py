"""Tiles of registers, and who picks one: the first of the template's own list, or what a search found to be best."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from hashlib import sha256
from typing import Any

from fxquant.targets.kernels.contract.problem import ConvWindow


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

    def to_json(self) -> dict[str, Any]:
        """The tile as plain data."""
        return asdict(self)


Pick = Callable[[str, ConvWindow, tuple[Tile, ...]], Tile]


def first(_kernel: str, _problem: ConvWindow, tiles: tuple[Tile, ...]) -> Tile:
    """The default."""
    return tiles[0]


@dataclass(frozen=True)
class Tiling:
    """What a search found, by `problem_key`; a problem that it did not meet has the default tile."""

    found: Mapping[str, Tile]

    def pick(self, kernel: str, problem: ConvWindow, tiles: tuple[Tile, ...]) -> Tile:
        """The best tile that is known."""
        tile = self.found.get(problem_key(kernel, problem))
        return tile if tile in tiles else tiles[0]


def problem_key(kernel: str, problem: ConvWindow) -> str:
    """Equal for layers that share code but for the tile."""
    return sha256(repr((kernel, problem)).encode()).hexdigest()[:20]
