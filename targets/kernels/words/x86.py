"""The vocabulary of the x86 kernels: instruction sets as records, and vector expressions over TIR.

An accumulator is a `uint32` vector of `Isa.lanes` channels. It is unsigned because TIR marks signed additions as never
wrapping, while sums here are meant modulo 2^32: the true sum fits s32, a partial one need not.

Dot products take the activation as u8 and the weight as s8, four pairs ("a quad") per 32-bit lane:

* `vpdpbusd` (AVX-VNNI, AVX512-VNNI): exact for all operands.
* `vpmaddubsw` + `vpmaddwd` (AVX2): the first adds two products in s16 *with saturation*, so it may only be used on
  quads whose `pair_reach` is at most `NARROW_REACH`. All others need s16 operands: `dot_pairs` (`vpmaddwd` alone).
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any, Literal

import numpy as np

from fxquant.products import LIMIT
from fxquant.targets.kernels.words.tir import bits, load, splat
from fxquant.targets.tvm_api import T, intrinsic

LANE_BITS = 32
LINE_BYTES = 64  # a cache line
NARROW_REACH = LIMIT


@dataclass(frozen=True)
class Isa:
    """An x86 instruction set: `lanes` 32-bit lanes per vector, `registers` of them, and how u8 x s8 quads are summed.

    `cpu` and `features` are LLVM's names, for the TVM target; `family` is the ending of LLVM's intrinsic names.
    """

    name: str
    lanes: int
    registers: int
    dot: Literal["maddubs", "vpdpbusd"]
    cpu: str
    features: tuple[str, ...] = field(default=())

    @property
    def target(self) -> dict[str, Any]:
        """The TVM target dictionary."""
        return {"kind": "llvm", "mtriple": "x86_64-linux-gnu", "mcpu": self.cpu, "mattr": list(self.features)}

    @property
    def exact_quads(self) -> bool:
        """True where the quad dot product never saturates, whatever the weights."""
        return self.dot == "vpdpbusd"


AVX2 = Isa("avx2", 8, 16, "maddubs", "x86-64-v3")
AVX_VNNI = Isa("avxvnni", 8, 16, "vpdpbusd", "x86-64-v3", ("+avxvnni",))
AVX512_VNNI = Isa("avx512vnni", 16, 32, "vpdpbusd", "x86-64-v4", ("+avx512vnni", "-prefer-256-bit"))
ISAS = {isa.name: isa for isa in (AVX2, AVX_VNNI, AVX512_VNNI)}


def broadcast_pair(buffer: Any, index: Any, lanes: int) -> Any:
    """Two s16 at `index`, repeated in each 32-bit lane."""
    return bits(T.broadcast(bits(load(buffer, index, 2), "int32"), lanes), f"int16x{2 * lanes}")


def broadcast_quad(buffer: Any, index: Any, lanes: int) -> Any:
    """Four bytes at `index`, repeated in each 32-bit lane, as u8 (`vpbroadcastd` from memory)."""
    return bits(T.broadcast(bits(load(buffer, index, 4), "int32"), lanes), f"uint8x{4 * lanes}")


def dot_quads(isa: Isa, acc: Any, activations: Any, weights: Any) -> Any:
    """acc + sum of the four u8 x s8 products of each lane; on "maddubs" the quads must be narrow."""
    n = isa.lanes
    if isa.dot == "vpdpbusd":
        name = f"llvm.x86.avx512.vpdpbusd.{n * LANE_BITS}"
        return intrinsic(name, f"uint32x{n}", acc, activations, weights)
    return acc + sum_pairs(isa, pair_sums(isa, activations, weights))


def pair_sums(isa: Isa, activations: Any, weights: Any) -> Any:
    """u8 x s8 products summed in pairs to s16, saturating (`vpmaddubsw`)."""
    n = isa.lanes
    return intrinsic("llvm.x86.avx2.pmadd.ub.sw", f"int16x{2 * n}", activations, weights)


def sum_pairs(isa: Isa, pairs: Any) -> Any:
    """s16 pairs summed into 32-bit lanes."""
    n = isa.lanes
    return intrinsic("llvm.x86.avx2.pmadd.wd", f"uint32x{n}", pairs, splat(1, "int16", 2 * n))


def dot_pairs(isa: Isa, acc: Any, a: Any, b: Any) -> Any:
    """acc + a0*b0 + a1*b1 per lane over s16 vectors, exact unless all four operands are -32768."""
    n = isa.lanes
    if isa.dot == "vpdpbusd":
        return intrinsic(f"llvm.x86.avx512.vpdpwssd.{n * LANE_BITS}", f"uint32x{n}", acc, a, b)
    return acc + intrinsic("llvm.x86.avx2.pmadd.wd", f"uint32x{n}", a, b)


def pair_reach(quads: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """For weight quads (last axis 4, int8): sums of the positive and of minus the negative weights of each pair.

    Activations are not negative, so a pair of products lies within -255 * reach ... 255 * reach of its sign, and s16
    holds it while reach <= `NARROW_REACH`. Reaches of several pairs added in s16 add up. The last axis is
    (pair 0 positive, pair 0 negative, pair 1 positive, pair 1 negative).
    """
    wide = quads.astype(np.int16)
    reach = np.empty_like(wide)  # slices, which numpy adds much faster than it sums along a short axis
    for sign, side in enumerate((np.maximum(wide, 0), np.maximum(-wide, 0))):
        np.add(side[..., 0::2], side[..., 1::2], out=reach[..., sign::2])
    return reach


def even_products(a: Any, m: Any, lanes: int) -> Any:
    """64-bit products of the even 32-bit lanes of `a` and `m` (both seen as int64 x lanes/2): one `vpmuldq`."""
    return sign_extend(a, lanes) * sign_extend(m, lanes)


def sign_extend(value: Any, lanes: int) -> Any:
    """The low halves of int64 x lanes/2, sign extended; LLVM folds this into `vpmuldq`."""
    half = splat(32, "int64", lanes // 2)
    return T.shift_right(T.shift_left(value, half), half)


def high_halves(even: Any, odd: Any, lanes: int) -> Any:
    """int32 x lanes from the upper halves of the 64-bit even and odd lanes: a shift and a blend."""
    n = lanes // 2
    low = T.bitwise_and(T.shift_right(even, splat(32, "int64", n)), splat(0xFFFFFFFF, "int64", n))
    high = T.bitwise_and(odd, splat(-(1 << 32), "int64", n))
    return bits(T.bitwise_or(low, high), f"int32x{lanes}")
