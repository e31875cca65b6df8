"""aarch64 with the dot-product extension: vectors of four channels, four taps per `sdot`.

Four taps of a pixel are repeated in all lanes and meet four taps of four channels.
"""

from __future__ import annotations

from typing import Any, ClassVar

from fxquant.targets.kernels.contract.kernel import Declined
from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.convolution.strip.body import ConvBody
from fxquant.targets.kernels.convolution.strip.neon import ROUNDING
from fxquant.targets.kernels.convolution.strip.tile import Tile, balanced, divisors
from fxquant.targets.kernels.parts.sums import Places, Sums, Vectors
from fxquant.targets.kernels.words.tir import bits, get, load, put
from fxquant.targets.tvm_api import I, T, intrinsic, tirx

VECTOR, LANES = 16, 4
# Four pixels of sixteen channels, or more pixels of fewer: sums that fit 32 registers beside weights.
PIXELS = {4: 4, 2: 8, 1: 12}


def fours(name: str, problem: ConvProblem) -> Declined | None:
    """Why results cannot be stored four channels at a time."""
    if problem.epilogue.table:
        return Declined(name, "a fused function is looked up channel by channel")
    return Declined(name, f"{problem.count} channels are not whole vectors of 4") if problem.count % LANES else None


class DotprodBody(ConvBody):
    """Padding is the zero point, a step four taps."""

    NAME: ClassVar[str] = "sdot"
    GROUP: ClassVar[int] = 4
    SUMS: ClassVar[Sums] = Vectors(LANES)
    TOGETHER: ClassVar[int] = 4
    PIECES: ClassVar[tuple[int, ...]] = (16, 8, 4, 2, 1)
    VECTOR_ROUNDING = ROUNDING

    @classmethod
    def declines(cls, problem: ConvProblem) -> Declined | None:
        """No whole vectors of channels, or a table, which is read element by element."""
        return super().declines(problem) or fours(cls.NAME, problem)

    @classmethod
    def tiles(cls, problem: ConvProblem) -> tuple[Tile, ...]:
        """As many sums as there are registers; taps of four steps are one load."""
        count, width = problem.count, problem.out.shape[2]
        fitting = [n for n in PIXELS if count % (n * LANES) == 0]
        unrolls = divisors(cls.steps(problem), 4)[:2]
        tiles = [
            Tile(balanced(width, pixels), vectors * LANES, unroll)
            for vectors in fitting
            for pixels in (PIXELS[vectors], PIXELS[vectors] // 2)
            for unroll in unrolls
        ]
        return tuple(dict.fromkeys(tiles))

    def multiply(self, acc: Any, sums: Places, taps: list[Any], weights: Any, step: int) -> None:
        """One `sdot` per pixel and vector of channels."""
        tile = self.tile
        if tile.unroll == 4 and step == 0:
            self.loaded = [I.Bind(bits(load(self.scratch, at, VECTOR), "int32x4")) for at in taps]
        at = weights + step * tile.channels * self.GROUP
        factors = [I.Bind(load(self.weights, at + v * VECTOR, VECTOR)) for v in range(tile.channels // LANES)]
        for p, base in enumerate(taps):
            repeated = self._lane(p, step) if tile.unroll == 4 else self._repeated(base + step * self.GROUP)
            for v, factor in enumerate(factors):
                place = sums[p][v * LANES]
                total = intrinsic("llvm.aarch64.neon.sdot", "int32x4", get(acc, place, LANES), factor, repeated)
                put(acc, place, total, LANES)

    def _lane(self, pixel: int, step: int) -> Any:
        return bits(tirx.Shuffle([self.loaded[pixel]], [tirx.const(step, "int32")] * LANES), "int8x16")

    def _repeated(self, at: Any) -> Any:
        return I.Bind(bits(T.broadcast(bits(load(self.scratch, at, self.GROUP), "int32"), LANES), "int8x16"))
