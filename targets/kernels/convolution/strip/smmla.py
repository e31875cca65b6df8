"""aarch64 with the matrix-multiply extension (i8mm): two pixels by two channels by eight taps per `smmla`.

A vector holds four sums, those of two neighbouring pixels and channels:

    [pixel 0: channel 0, channel 1 | pixel 1: channel 0, channel 1]
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

from fxquant.targets.kernels.contract.kernel import Declined
from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.convolution.strip.body import ConvBody
from fxquant.targets.kernels.convolution.strip.dotprod import fours
from fxquant.targets.kernels.convolution.strip.neon import ROUNDING
from fxquant.targets.kernels.convolution.strip.tile import Tile, balanced, divisors
from fxquant.targets.kernels.parts.chunks import chunked
from fxquant.targets.kernels.parts.sums import Places, Sums
from fxquant.targets.kernels.words.tir import get, joined, load, places, put
from fxquant.targets.tvm_api import I, intrinsic, tirx

VECTOR, LANES = 16, 4
# Channels and pixels of a tile: sixteen vectors of sums, or fewer.
PIXELS = {16: 4, 8: 8, 4: 12}


@dataclass(frozen=True)
class Squares(Sums):
    """Two pixels of two channels are a vector, which begins with the bias; tiles have an even number of both."""

    lanes: int = LANES

    def places(self, pixels: int, channels: int) -> Places:
        """Exactly where each sum stands."""
        return [
            [((p // 2) * (channels // 2) + c // 2) * LANES + p % 2 * 2 + c % 2 for c in range(channels)]
            for p in range(pixels)
        ]

    def vectors(self, places: Places) -> list[tuple[int, int]]:
        """Two pixels of two channels."""
        return [(pixel[c], LANES) for pixel in places[::2] for c in range(0, len(pixel), 2)]

    def begin(self, acc: Any, places: Places, bias: Any, channel: Any) -> None:
        """With the bias."""
        for c in range(0, len(places[0]), 2):
            pair = I.Bind(load(bias, channel + c, 2))
            for pixel in places[::2]:
                put(acc, pixel[c], joined([pair, pair], LANES), LANES)

    def complete(self, acc: Any, places: list[int], bias: Any, channel: Any) -> Any:
        """Pairs of a pixel's channels from vectors that another pixel shares."""
        vectors = [get(acc, at // LANES * LANES, LANES) for at in places[::2]]
        first = places[0] % LANES
        if len(places) == 1:
            return tirx.Shuffle(vectors, _numbers(first))
        fours = [
            tirx.Shuffle(vectors[i : i + 2], _numbers(first, first + 1, LANES + first, LANES + first + 1))
            for i in range(0, len(vectors), 2)
        ]
        return joined(fours, len(places))


class SmmlaBody(ConvBody):
    """Padding is the zero point, a step eight taps."""

    NAME: ClassVar[str] = "smmla"
    GROUP: ClassVar[int] = 8
    SUMS: ClassVar[Sums] = Squares()
    TOGETHER: ClassVar[int] = 4
    PIECES: ClassVar[tuple[int, ...]] = (16, 8, 4, 2, 1)
    VECTOR_ROUNDING = ROUNDING

    @classmethod
    def declines(cls, problem: ConvProblem) -> Declined | None:
        """One pixel per row, no whole vectors of channels, or a table, which is read element by element."""
        alone = Declined(cls.NAME, "rows of one pixel") if chunked(problem).out.shape[2] == 1 else None
        return super().declines(problem) or alone or fours(cls.NAME, problem)

    @classmethod
    def tiles(cls, problem: ConvProblem) -> tuple[Tile, ...]:
        """As many sums as there are registers; taps of two steps are one load."""
        count, width = problem.count, problem.out.shape[2]
        unrolls = sorted(divisors(cls.steps(problem), 4)[:3], key=lambda n: n % 2)
        tiles = [
            Tile(_even(balanced(width, most), width), channels, unroll)
            for channels, pixels in PIXELS.items()
            if count % channels == 0
            for most in (pixels, pixels // 2)
            for unroll in unrolls
        ]
        return tuple(dict.fromkeys(tiles))

    def prepare(self) -> None:
        """Room for what two steps share, by pixel."""
        super().prepare()
        self.loaded: dict[int, list[Any]] = {}

    def multiply(self, acc: Any, sums: Places, taps: list[Any], weights: Any, step: int) -> None:
        """One `smmla` per pair of pixels and pair of channels."""
        tile = self.tile
        factors = [
            I.Bind(load(self.weights, weights + (step * tile.channels + c) * self.GROUP, VECTOR))
            for c in range(0, tile.channels, 2)
        ]
        for p in range(0, tile.pixels, 2):
            both = self._both(taps[p], taps[p + 1], step, p)
            for c, factor in enumerate(factors):
                at = sums[p][2 * c]
                total = intrinsic("llvm.aarch64.neon.smmla", "int32x4", get(acc, at, LANES), both, factor)
                put(acc, at, total, LANES)

    def _both(self, first: Any, second: Any, step: int, pixel: int) -> Any:
        """Eight taps of two pixels."""
        if self.tile.unroll % 2:
            halves = [I.Bind(load(self.scratch, at + step * self.GROUP, self.GROUP)) for at in (first, second)]
            return I.Bind(joined(halves, VECTOR))
        if step % 2 == 0:
            wide = [I.Bind(load(self.scratch, at + step * self.GROUP, VECTOR)) for at in (first, second)]
            self.loaded[pixel] = wide
        start = step % 2 * self.GROUP
        return I.Bind(
            tirx.Shuffle(self.loaded[pixel], [*places(start, self.GROUP), *places(VECTOR + start, self.GROUP)])
        )


def _even(pixels: int, width: int) -> int:
    """An even number of pixels, of which a row has so many."""
    return min(pixels + pixels % 2, width - width % 2)


def _numbers(*numbers: int) -> list[Any]:
    return [tirx.const(n, "int32") for n in numbers]
