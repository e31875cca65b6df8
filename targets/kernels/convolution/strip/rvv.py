"""RISC-V with the vector extension (RVV 1.0): one tap of a pixel by that of all channels of a block, `vwmacc.vx`.

There is no product of bytes that sums into 32 bits: weights are widened to 16 bits when they are loaded, once for all
pixels of a tile, and each product of 16 bits is added to a sum of 32. A vector has as many lanes as a block has
channels, whatever their number: it is `vl` that says how many count. LLVM is told vectors of a fixed size, and what
they compute; it finds the instructions.
"""

from __future__ import annotations

from typing import Any, ClassVar

from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.convolution.strip.body import ConvBody
from fxquant.targets.kernels.convolution.strip.tile import Tile, balanced, divisors
from fxquant.targets.kernels.epilogue import rounding
from fxquant.targets.kernels.parts.operand import S16, Operand
from fxquant.targets.kernels.parts.sums import Places, Sums, Vectors
from fxquant.targets.kernels.words.numbers import typed
from fxquant.targets.kernels.words.tir import bits, get, put, spread
from fxquant.targets.tvm_api import I, T, intrinsic, tirx

# Of 32 registers of 128 bits, as small as RVV 1.0 has them: those for sums, and the sums of one.
REGISTERS, LANES = 24, 4
# Eight registers are one operand at most.
MOST_CHANNELS = 32


def _lanes(value: Any) -> int:
    return int(value.ty.dtype.lanes)


def _by_halves(a: Any, b: Any) -> Any:
    """(a * b + 2^31) >> 32: the upper half of the product, and the highest bit of the lower one."""
    lanes = _lanes(a)
    low = bits(a, f"uint32x{lanes}") * bits(b, f"uint32x{lanes}")
    return _upper(a, b) + bits(I.shift_right(low, _each(31, "uint32", lanes)), f"int32x{lanes}")


def _upper(a: Any, b: Any) -> Any:
    """`vmulh`."""
    lanes = _lanes(a)
    product = typed(a, "int64", lanes) * typed(b, "int64", lanes)
    return typed(I.shift_right(product, _each(32, "int64", lanes)), "int32", lanes)


def _half_sum(a: Any, b: Any) -> Any:
    """`vaaddu`."""
    lanes = _lanes(a)
    total = typed(a, "uint64", lanes) + typed(b, "uint64", lanes)
    return typed(I.shift_right(total, _each(1, "uint64", lanes)), "uint32", lanes)


def _shifted(a: Any, count: int) -> Any:
    lanes = _lanes(a)
    return intrinsic("llvm.sshl.sat", f"int32x{lanes}", a, _each(count, "int32", lanes))


def _rounded_shift(a: Any, count: int) -> Any:
    lanes = _lanes(a)
    whole = I.shift_right(a, _each(count, "uint32", lanes))
    last = I.shift_right(a, _each(count - 1, "uint32", lanes))
    return whole + T.bitwise_and(last, _each(1, "uint32", lanes))


def _each(value: int, dtype: str, lanes: int) -> Any:
    return spread(tirx.const(value, dtype), lanes)


def _narrow(a: Any) -> Any:
    """`vnclip`, twice."""
    lanes = _lanes(a)
    return I.min(I.max(a, _each(-128, "int32", lanes)), _each(127, "int32", lanes))


ROUNDING = rounding.VectorRounding(
    rounded=_by_halves,
    floor=_upper,
    half_sum=_half_sum,
    shifted=_shifted,
    rounded_shift=_rounded_shift,
    sum=lambda a, b: intrinsic("llvm.sadd.sat", f"int32x{_lanes(a)}", a, b),
    narrow=_narrow,
)


class RvvBody(ConvBody):
    """Padding is the zero point, a step one tap."""

    NAME: ClassVar[str] = "rvv"
    GROUP: ClassVar[int] = 1
    SUMS: ClassVar[Sums] = Vectors(0)
    PIECES: ClassVar[tuple[int, ...]] = (64, 32, 16, 8, 4, 2, 1)
    HIDDEN: ClassVar[tuple[str, ...]] = ("none",)
    VECTOR_ROUNDING = ROUNDING

    @classmethod
    def known(cls, problem: ConvProblem, tile: Tile) -> dict[str, int]:
        """And a zero of which LLVM does not know that it is one: see `_tile`."""
        return {**super().known(problem, tile), "none": 0}

    def _tile(self, row: Any, block: Any, pixel: Any, base: Any) -> None:
        """With a block of which LLVM cannot see that it is the same for all pixels.

        Else it reads biases and multipliers ahead for a row, widens them, and has no registers to keep them in.
        """
        super()._tile(row, I.Bind(block + pixel * self.loops["none"]), pixel, base)

    @classmethod
    def tiles(cls, problem: ConvProblem) -> tuple[Tile, ...]:
        """As many sums as there are registers; first the pixels that divide a row, which may be computed in place."""
        width, steps = problem.out.shape[2], cls.steps(problem)
        tiles = [
            Tile(pixels, channels, unroll)
            for channels in divisors(problem.count, MOST_CHANNELS)[:2]
            for pixels in _pixels(width, channels)
            for unroll in divisors(steps, 8)[:2]
        ]
        return tuple(dict.fromkeys(tiles))

    def multiply(self, acc: Any, sums: Places, taps: list[Any], weights: Any, step: int) -> None:
        """One `vwmacc.vx` per pixel."""
        count = self.tile.channels
        factors = I.Bind(typed(get(self.weights, weights + step * count, count), "int16", count))
        for places, base in zip(sums, taps, strict=True):
            tap = spread(T.cast(self.scratch[base + step], "int16"), count)
            product = typed(tap, "int32", count) * typed(factors, "int32", count)
            put(acc, places[0], get(acc, places[0], count) + product, count)


class RvvHalvesBody(RvvBody):
    """The same of s16."""

    NAME: ClassVar[str] = "rvv-s16"
    OPERAND: ClassVar[Operand] = S16
    ELEMENT: ClassVar[str] = "int16"
    PIECES: ClassVar[tuple[int, ...]] = (32, 16, 8, 4, 2, 1)


def _pixels(width: int, channels: int) -> list[int]:
    """Of which all registers hold the sums, or two thirds of them."""
    each = 1 << ((channels - 1) // LANES).bit_length()  # of a vector: a power of two
    sizes = [balanced(width, max(1, sums // each)) for sums in (REGISTERS, REGISTERS * 2 // 3)]
    return sorted(sizes, key=lambda pixels: width % pixels > 0)
