"""How the sums of a tile stand in memory that LLVM keeps in registers, where they begin, and how they are completed."""

from __future__ import annotations

from abc import ABC, abstractmethod
from dataclasses import dataclass
from typing import Any

from fxquant.targets.kernels.words.tir import get, joined, put, spread
from fxquant.targets.tvm_api import I, tirx

# By pixel and channel of a tile: where in the s32 accumulators the sum is, or the vector that holds it.
Places = list[list[int]]


class Sums(ABC):
    """The layout of a tile's sums."""

    # Channels that are completed together, where a tile has so many; 0: all of a tile.
    lanes: int = 1

    @abstractmethod
    def places(self, pixels: int, channels: int) -> Places:
        """Where the sums of a tile stand."""

    def room(self, pixels: int, channels: int) -> int:
        """Elements of the accumulators."""
        return pixels * channels

    def together(self, channels: int) -> int:
        """Channels of a tile that are a vector: one, where they do not divide into vectors."""
        lanes = self.lanes or channels
        return lanes if channels % lanes == 0 else 1

    @abstractmethod
    def begin(self, acc: Any, places: Places, bias: Any, channel: Any) -> None:
        """Emit what the sums of these places begin with; their first channel is number `channel` of the layer."""

    @abstractmethod
    def complete(self, acc: Any, places: list[int], bias: Any, channel: Any) -> Any:
        """The sums of one pixel's neighbouring channels with their bias: `lanes` or a multiple, or one."""


@dataclass(frozen=True)
class Vectors(Sums):
    """Neighbouring channels are a vector, which begins with the bias."""

    lanes: int = 1

    def places(self, pixels: int, channels: int) -> Places:
        """Pixel by pixel."""
        return [[p * channels + c for c in range(channels)] for p in range(pixels)]

    def begin(self, acc: Any, places: Places, bias: Any, channel: Any) -> None:
        """With the bias."""
        count = len(places[0])
        lanes = self.together(count)
        for c in range(0, count, lanes):
            for pixel in places:
                put(acc, pixel[c], get(bias, channel + c, lanes), lanes)

    def complete(self, acc: Any, places: list[int], bias: Any, channel: Any) -> Any:
        """LLVM keeps in registers what is written and read by vectors of the same size."""
        lanes = min(self.lanes or len(places), len(places))
        return joined([get(acc, at, lanes) for at in places[::lanes]], len(places))


@dataclass(frozen=True)
class Enlarged(Vectors):
    """Sums of products that are `shift` bits too large, exactly, as is the bias, until they are complete."""

    shift: int = 0

    def complete(self, acc: Any, places: list[int], bias: Any, channel: Any) -> Any:
        """In their own size."""
        found = super().complete(acc, places, bias, channel)
        return I.shift_right(found, spread(tirx.const(self.shift, "int32"), len(places)))


@dataclass(frozen=True)
class Parts(Sums):
    """Every sum is by itself, in so many parts (1: a general register), and gets its bias when it is complete."""

    parts: int = 1
    lanes: int = 1

    def places(self, pixels: int, channels: int) -> Places:
        """Pixel by pixel."""
        return [[(p * channels + c) * self.parts for c in range(channels)] for p in range(pixels)]

    def room(self, pixels: int, channels: int) -> int:
        """Elements of the accumulators."""
        return pixels * channels * self.parts

    def begin(self, acc: Any, places: Places, bias: Any, channel: Any) -> None:
        """With zeros."""
        for c in range(len(places[0])):
            for pixel in places:
                put(acc, pixel[c], spread(tirx.const(0, "int32"), self.parts), self.parts)

    def complete(self, acc: Any, places: list[int], bias: Any, channel: Any) -> Any:
        """What is in general registers becomes a vector."""
        values = [acc[at] for at in places]
        return joined(values, len(values)) + get(bias, channel, len(values))
