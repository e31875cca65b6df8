"""Exact integer Winograd: F(4x4, 3x3) and F(2x2, 3x3) without fractions, modulo 2^32.

A tile of m x m outputs needs (m + 2)^2 products instead of 9 m^2. In one dimension, with inputs d, weights g:

    k * y = A((G g) * (B d))        `*` elementwise; k = 24 for m = 4 (points 0, 1, -1, 2, -2, infinity)
                                                     k = 2 for m = 2 (points 0, 1, -1, infinity)

G is scaled row by row so that it holds integers and A becomes simple; what is left over is k per dimension. Everything
is a ring identity over the integers, so it holds modulo 2^32 whatever wraps on the way: the sum arrives as k^2 y
modulo 2^32. 576 = 64 * 9 and 9 has an inverse modulo 2^32, so one multiplication gives 64 y and a shift right by 6
gives y, provided -2^25 <= y < 2^25. For m = 2 it is a shift by 2 and 2^29. That bound is all there is to prove, and
`exact_tiles` proves it from the weights. Operands always fit s16: see `WEIGHT_GROWTH` and `INPUT_GROWTH`.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np

from fxquant.bounds import Bounds

Array = np.ndarray[Any, Any]
Times = Callable[[Any, int], Any]

TILES = (4, 2)  # output tile sizes, best first
INVERSE = {4: pow(9, -1, 1 << 32), 2: 1}  # undoes the odd part of k^2
SHIFT = {4: 6, 2: 2}  # undoes the even part
BIAS_SCALE = {4: 576, 2: 4}  # k^2: what a bias is multiplied with to be added before the division
WEIGHT_GROWTH = {4: 144, 2: 9}  # |transformed weight| <= this * 128, so at most 18432
INPUT_GROWTH = {4: 68, 2: 4}  # |transformed input| <= this * 255 for inputs in [0, 255], so at most 17340


def weight_transform(m: int, g: Sequence[Any], times: Times) -> list[Any]:
    """G: three weights of one dimension to m + 2. `times(value, integer)` multiplies."""
    even, odd = g[0] + g[2], g[1]
    if m == 2:
        return [times(g[0], 2), even + odd, even - odd, times(g[2], 2)]
    far, near = g[0] + times(g[2], 4), times(odd, 2)
    return [times(g[0], 6), times(even + odd, 4), times(even - odd, 4), far + near, far - near, g[2]]


def input_transform(m: int, d: Sequence[Any], times: Times) -> list[Any]:
    """B: m + 2 inputs of one dimension to m + 2. `times(value, integer)` multiplies."""
    if m == 2:
        return [d[0] - d[2], d[1] + d[2], d[2] - d[1], d[1] - d[3]]
    ahead, twice = d[4] - d[2], times(d[3] - d[1], 2)
    even, odd = d[4] - times(d[2], 4), d[3] - times(d[1], 4)
    first, last = times(d[0] - d[2], 4) + ahead, d[5] - d[3] - times(twice, 2)
    return [first, even + odd, even - odd, ahead + twice, ahead - twice, last]


def output_transform(m: int, v: Sequence[Any], times: Times) -> list[Any]:
    """A: m + 2 products of one dimension to m outputs times k."""
    total, difference = v[1] + v[2], v[1] - v[2]
    if m == 2:
        return [v[0] + total, difference - v[3]]
    far_total, far_difference = v[3] + v[4], v[3] - v[4]
    return [
        v[0] - total + far_total,
        times(far_difference, 2) - difference,
        times(far_total, 4) - total,
        times(far_difference, 8) - difference + times(v[5], 24),
    ]


def transform_weights(m: int, weight: Array) -> Array:
    """int8 (Co, C, 3, 3) to int16 (Co, C, m + 2, m + 2)."""

    def times(value: Array, factor: int) -> Array:
        return value * factor

    wide = weight.astype(np.int64)
    rows = np.stack(weight_transform(m, [wide[:, :, i] for i in range(3)], times), axis=2)
    return np.stack(weight_transform(m, [rows[..., i] for i in range(3)], times), axis=3).astype(np.int16)


def exact_tiles(bounds: Bounds) -> tuple[int, ...]:
    """The tile sizes m, best first, whose result is proven equal to every sum within these bounds."""
    least, greatest = bounds
    limits = {m: 1 << (31 - SHIFT[m]) for m in TILES}
    return tuple(m for m in TILES if least.min() >= -limits[m] and greatest.max() < limits[m])
