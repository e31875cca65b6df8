"""Plain NEON of both Arm architectures: eight byte products per `smull` and `smlal`, summed in pairs by `sadalp`.

Two products fit 16 bits but where both weights are -128: then a layer gets another template. A sum is a vector of four
partial sums until the window ends.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.convolution.strip.body import Array, ConvBody
from fxquant.targets.kernels.convolution.strip.tile import Tile, balanced, divisors
from fxquant.targets.kernels.epilogue import rounding
from fxquant.targets.kernels.parts.operand import S16, Operand
from fxquant.targets.kernels.parts.sums import Parts, Places, Sums
from fxquant.targets.kernels.words.tir import get, joined, load, places, put
from fxquant.targets.tvm_api import I, T, intrinsic, tirx

LOWEST, LANES = -128, 4


def halves(vector: Any) -> list[Any]:
    """Both halves of a vector of four."""
    return [tirx.Shuffle([vector], places(i, 2)) for i in (0, 2)]


def _narrowed(total: Any, shift: int, lanes: int) -> Any:
    """`sqshrn`, a vector of two at a time."""
    pairs = [tirx.Shuffle([total], places(i, 2)) for i in range(0, lanes, 2)]
    count = tirx.const(shift, "int32")
    return joined([intrinsic("llvm.aarch64.neon.sqshrn", "int32x2", pair, count) for pair in pairs], lanes)


ROUNDING = rounding.LongRounding(_narrowed)


def _paired(a: Any, b: Any) -> Any:
    """Sums of neighbours, those of `a` first."""
    return intrinsic("llvm.aarch64.neon.addp", "int32x4", a, b)


def _paired_halves(a: Any, b: Any) -> Any:
    """The same by `vpadd`, which knows vectors of two."""
    return joined([intrinsic("llvm.arm.neon.vpadd", "int32x2", *halves(vector)) for vector in (a, b)], LANES)


@dataclass(frozen=True)
class PairedParts(Parts):
    """Four parts, which an instruction adds up."""

    paired: Callable[[Any, Any], Any] = _paired
    parts: int = LANES
    lanes: int = LANES

    def complete(self, acc: Any, places: list[int], bias: Any, channel: Any) -> Any:
        """Partial sums of neighbouring channels added up, and their bias."""
        vectors = [get(acc, at, LANES) for at in places]
        if len(places) == 1:
            total = I.Bind(vectors[0])
            pairs = I.Bind(self.paired(total, total))
            return tirx.Shuffle([self.paired(pairs, pairs)], [tirx.const(0, "int32")]) + bias[channel]
        first, second = (I.Bind(self.paired(vectors[i], vectors[i + 1])) for i in (0, 2))
        return self.paired(first, second) + get(bias, channel, LANES)


class NeonBody(ConvBody):
    """aarch64. Padding is the zero point, a step eight taps; two steps are one `smull`, `smlal` and `sadalp`."""

    NAME: ClassVar[str] = "neon"
    GROUP: ClassVar[int] = 8
    SUMS: ClassVar[Sums] = PairedParts(paired=_paired)
    VECTOR_ROUNDING: ClassVar[rounding.Vectors | None] = ROUNDING
    # (pixels, channels) of which sums, weights and taps fit the registers, best first.
    REGISTERS: ClassVar[tuple[tuple[int, int], ...]] = ((4, 4), (2, 4), (8, 2), (4, 2), (8, 1), (4, 1))
    SUM_OF_PAIRS: ClassVar[str] = "llvm.aarch64.neon.saddlp"

    @classmethod
    def tiles(cls, problem: ConvProblem) -> tuple[Tile, ...]:
        """As many sums as there are registers; an even number of steps per turn where it divides the window."""
        count, width = problem.count, problem.out.shape[2]
        most = divisors(count, 4)[0]
        unrolls = sorted(divisors(cls.steps(problem), 6)[:3], key=lambda n: n % 2)
        fitting = [(pixels, channels) for pixels, channels in cls.REGISTERS if channels <= most]
        tiles = [
            Tile(balanced(width, pixels), channels, unroll)
            for pixels, channels in (*fitting, (1, most))
            for unroll in unrolls
            if count % channels == 0
        ]
        return tuple(dict.fromkeys(tiles))

    @classmethod
    def overflows(cls, weights: Array) -> str:
        """Two neighbouring steps may not both have -128 in the same place: 128 * 128 twice is beyond 16 bits."""
        lowest = weights == LOWEST
        both = int(np.count_nonzero(lowest[:, 1:] & lowest[:, :-1]))
        return f"{both} pairs of weights of -128, whose products do not fit 16 bits" if both else ""

    def multiply(self, acc: Any, sums: Places, taps: list[Any], weights: Any, step: int) -> None:
        """The products of an even step wait for those of the next one."""
        if step % 2 == 0 and step + 1 < self.tile.unroll:
            return
        steps = [step - 1, step] if step % 2 else [step]
        factors = [[self._wide(self.weights, weights, s, c) for s in steps] for c in range(self.tile.channels)]
        for p, base in enumerate(taps):
            window = [self._signed(self.scratch, base + s * self.GROUP) for s in steps]
            for c, at in enumerate(sums[p]):
                products = [a * b for a, b in zip(window, factors[c], strict=True)]
                total = products[0] if len(products) == 1 else products[0] + products[1]
                put(acc, at, get(acc, at, LANES) + intrinsic(self.SUM_OF_PAIRS, "int32x4", total), LANES)

    def _wide(self, buffer: Any, weights: Any, step: int, channel: int) -> Any:
        return self._signed(buffer, weights + (step * self.tile.channels + channel) * self.GROUP)

    def _signed(self, buffer: Any, at: Any) -> Any:
        """Eight bytes, of which LLVM makes operands of `smull`."""
        return T.cast(I.Bind(load(buffer, at, self.GROUP)), f"int16x{self.GROUP}")


class NeonHalvesBody(NeonBody):
    """An operand of s16: `smlal` sums at once, in 32 bits, and no weight is too low."""

    NAME: ClassVar[str] = "neon-s16"
    OPERAND: ClassVar[Operand] = S16
    ELEMENT: ClassVar[str] = "int16"
    PIECES: ClassVar[tuple[int, ...]] = (8, 4, 2, 1)

    @classmethod
    def overflows(cls, weights: Array) -> str:
        """Products are 32 bits wide."""
        return ""

    def multiply(self, acc: Any, sums: Places, taps: list[Any], weights: Any, step: int) -> None:
        """Two `smlal` per pixel and channel."""
        factors = [quarters(self._wide(self.weights, weights, step, c)) for c in range(self.tile.channels)]
        for p, base in enumerate(taps):
            window = quarters(I.Bind(load(self.scratch, base + step * self.GROUP, self.GROUP)))
            for c, at in enumerate(sums[p]):
                total = get(acc, at, LANES)
                for x, w in zip(window, factors[c], strict=True):
                    total = total + x * w
                put(acc, at, total, LANES)


def quarters(vector: Any) -> list[Any]:
    """Both halves of eight s16, as s32: LLVM multiplies them without widening them."""
    bound = I.Bind(vector)
    return [T.cast(tirx.Shuffle([bound], places(i, LANES)), f"int32x{LANES}") for i in (0, LANES)]


class Neon32HalvesBody(NeonHalvesBody):
    """The same on Armv7."""

    NAME: ClassVar[str] = "neon32-s16"
    REGISTERS: ClassVar[tuple[tuple[int, int], ...]] = ((2, 4), (2, 2), (4, 1))
    SUMS: ClassVar[Sums] = PairedParts(paired=_paired_halves)
    VECTOR_ROUNDING: ClassVar[rounding.Vectors | None] = None


class Neon32Body(NeonBody):
    """Armv7: half as many registers."""

    NAME: ClassVar[str] = "neon32"
    REGISTERS: ClassVar[tuple[tuple[int, int], ...]] = ((2, 4), (4, 2), (2, 2), (6, 1), (4, 1))
    SUMS: ClassVar[Sums] = PairedParts(paired=_paired_halves)
    VECTOR_ROUNDING: ClassVar[rounding.Vectors | None] = None
    SUM_OF_PAIRS: ClassVar[str] = "llvm.arm.neon.vpaddls"
