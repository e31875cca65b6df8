"""Cortex-M cores with Helium (M55, M85): sixteen byte products and their sum per `vmladava`.

Eight sums at most: `vmladava` adds to an even register, and there are eight of them, one of which counts turns.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, ClassVar

from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.convolution.strip.body import Array, ConvBody, divisors
from fxquant.targets.kernels.convolution.strip.tile import Tile
from fxquant.targets.kernels.epilogue import rounding
from fxquant.targets.kernels.parts.params import Param
from fxquant.targets.kernels.parts.sums import Parts, Places, Sums
from fxquant.targets.kernels.words.tir import bits, load
from fxquant.targets.tvm_api import I, intrinsic, tirx

VECTOR = 16
WORDS = 4
# Vectors of weights that are reached from one register, and such registers; where a pixel's taps are reached from.
REACH, CENTERS = 14, 3
MIDDLE = 64


def _instruction(name: str, dtype: str, *after: int) -> Any:
    """An instruction with the numbers that LLVM wants behind its operands."""
    numbers = [tirx.const(n, "int32") for n in after]
    return lambda *operands: intrinsic(f"llvm.arm.mve.{name}", dtype, *operands, *numbers)


def _shift(name: str, dtype: str, unsigned: int) -> Any:
    """A shift by a constant."""
    return lambda a, n: intrinsic(
        f"llvm.arm.mve.{name}", dtype, a, tirx.const(n, "int32"), tirx.const(unsigned, "int32")
    )


def _narrow(value: Any) -> Any:
    """s32 to s16 and s16 to s8, saturating, in the lower half of each lane; the upper halves are left over."""
    half = _instruction("vqmovn", "int16x8", 0, 0, 0)(bits(value, "int16x8"), value)
    return bits(_instruction("vqmovn", "int8x16", 0, 0, 0)(bits(half, "int8x16"), half), "int32x4")


ROUNDING = rounding.VectorRounding(
    rounded=_instruction("vrmulh", "int32x4", 0),
    floor=_instruction("vmulh", "int32x4", 0),
    half_sum=_instruction("vhadd", "uint32x4", 1),
    shifted=_shift("vqshl.imm", "int32x4", 0),
    rounded_shift=_shift("vrshr.imm", "uint32x4", 1),
    sum=lambda a, b: intrinsic("llvm.sadd.sat", "int32x4", a, b),
    narrow=_narrow,
)


class MveBody(ConvBody):
    """Padding is the zero point, a step one vector of taps."""

    NAME: ClassVar[str] = "mve"
    GROUP: ClassVar[int] = VECTOR
    SUMS: ClassVar[Sums] = Parts(lanes=4)
    PIECES: ClassVar[tuple[int, ...]] = (16, 4, 2, 1)
    HIDDEN: ClassVar[tuple[str, ...]] = (
        "first",
        "distance",
        "turns",
        "columns",
        "run",
        "center0",
        "center1",
        "center2",
    )
    VECTOR_ROUNDING = ROUNDING

    @classmethod
    def tiles(cls, problem: ConvProblem) -> tuple[Tile, ...]:
        """All of a short window at once; else two pixels of two channels, twice, so that four are stored together."""
        count, width = problem.count, problem.out.shape[2]
        steps, channels = cls.steps(problem), divisors(count, 4)[0]
        flat = [Tile(1, channels, steps)] if steps * channels <= CENTERS * REACH else []
        unrolls = divisors(steps, 4)[:2]
        if width > 1 and channels == 4:
            whole = [steps] if steps * 2 <= CENTERS * REACH else []
            pairs = [Tile(pixels, 2, n, parts=2) for pixels in (2, min(width, 3)) for n in (*unrolls, *whole)]
        else:
            pairs = []
        return tuple(dict.fromkeys((*flat, *pairs, *(Tile(1, channels, n) for n in unrolls))))

    @classmethod
    def weights_param(cls, elements: int, values: Callable[..., Array]) -> Param:
        """As words: their loads reach further."""
        return Param("weights", elements // WORDS, "int32", values, align=16)

    @classmethod
    def widens_rows(cls, problem: ConvProblem, tile: Tile) -> bool:
        """In registers, where no pixels share them."""
        return problem.weight_bits < 8 and (problem.out.shape[2] > 1 or not cls.fits_chunks(problem, tile))

    @classmethod
    def known(cls, problem: ConvProblem, tile: Tile) -> dict[str, int]:
        """Loads reach 127 bytes either way: places are counted from the middle of what is read from one register."""
        centers = {f"center{i}": (i * REACH + REACH // 2) * WORDS for i in range(CENTERS)}
        return {**super().known(problem, tile), "first": MIDDLE, **centers}

    def _factor(self, weights: Any, number: int) -> Any:
        """Vector `number` of a turn's weights."""
        center = min(number // REACH, CENTERS - 1)
        at = weights // 4 + self.loops[f"center{center}"] + (number - center * REACH - REACH // 2) * WORDS
        if self.widens_rows(self.problem, self.tile):
            return load(self.weights, at * 4, VECTOR)
        if self.problem.weight_bits < 8:
            return self._of_few_bits(weights, number)
        return bits(load(self.weights, at, WORDS), "int8x16")

    def _of_few_bits(self, weights: Any, number: int) -> Any:
        """Vector `number` of those that a turn's chunks hold."""
        stored = self.stored(self.problem)
        chunk, part = divmod(number, stored.count)
        if part == 0:
            at = I.shift_right(weights, tirx.const(stored.count.bit_length() - 1, "int32")) + chunk * VECTOR
            self.parts = [I.Bind(p) for p in stored.parts(I.Bind(load(self.weights, at, VECTOR)))]
        return self.parts[part]

    def multiply(self, acc: Any, sums: Places, taps: list[Any], weights: Any, step: int) -> None:
        """One `vmladava` per pixel and channel."""
        tile, none = self.tile, tirx.const(0, "int32")
        factors = [I.Bind(self._factor(weights, step * tile.channels + c)) for c in range(tile.channels)]
        for p in range(tile.pixels):
            vector = I.Bind(load(self.scratch, taps[p] + (step * VECTOR - MIDDLE), VECTOR))
            for c in range(tile.channels):
                at = sums[p][c]
                total = intrinsic("llvm.arm.mve.vmldava", "int32", none, none, none, acc[at], vector, factors[c])
                I.buffer_store(acc, total, [at])
