"""Independent models of the integer primitives: plain loops over numpy integers, and Python's own unbounded ones."""

from __future__ import annotations

import itertools
import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np

Array = np.ndarray[Any, Any]


def rescale(acc: int, multiplier: int, shift: int) -> Fraction:
    """acc * 2^shift * multiplier / 2^32, exactly."""
    return Fraction(acc * multiplier * 2**shift, 2**32)


def round_half_up(x: Fraction) -> int:
    """The nearest integer, ties towards plus infinity."""
    return math.floor(x + Fraction(1, 2))


def clamp(q: int, qmin: int, qmax: int) -> int:
    """min(max(q, qmin), qmax)."""
    return max(qmin, min(qmax, q))


def each(function: Callable[..., int], *operands: Array) -> Array:
    """`function` of the Python integers of all operands, broadcast."""
    found: Array = np.frompyfunc(lambda *values: function(*(int(v) for v in values)), len(operands), 1)(*operands)
    return found


def convolve(
    x: Array, weight: Array, stride: Sequence[int], padding: Sequence[int], dilation: Sequence[int], groups: int
) -> Array:
    """Correlation of centred integers (N, C, ...) with (Co, C / groups, ...): one output element after the other."""
    spatial = range(2, x.ndim)
    x = np.pad(x.astype(np.int64), [(0, 0), (0, 0), *((p, p) for p in padding)])
    reach = [(weight.shape[a] - 1) * dilation[a - 2] + 1 for a in spatial]
    sizes = [(x.shape[a] - r) // stride[a - 2] + 1 for a, r in zip(spatial, reach, strict=True)]
    out = np.zeros((x.shape[0], weight.shape[0], *sizes), np.int64)
    per_group, channels = weight.shape[0] // groups, weight.shape[1]
    for n, o in itertools.product(range(out.shape[0]), range(out.shape[1])):
        first = o // per_group * channels
        for at in itertools.product(*map(range, sizes)):
            cut: Any = tuple(slice(i * s, i * s + r, d) for i, s, r, d in zip(at, stride, reach, dilation, strict=True))
            out[n, o, *at] = (x[n, first : first + channels, *cut] * weight[o].astype(np.int64)).sum()
    return out


def convolve_transposed(
    x: Array,
    weight: Array,
    stride: Sequence[int],
    padding: Sequence[int],
    extra: Sequence[int],
    dilation: Sequence[int],
    groups: int,
) -> Array:
    """Every input element (N, C, ...) is scattered through (C, Co / groups, ...)."""
    spatial = range(2, x.ndim)
    reach = [(weight.shape[a] - 1) * dilation[a - 2] + 1 for a in spatial]
    full = [(x.shape[a] - 1) * stride[a - 2] + r + extra[a - 2] for a, r in zip(spatial, reach, strict=True)]
    out = np.zeros((x.shape[0], weight.shape[1] * groups, *full), np.int64)
    per_group = x.shape[1] // groups
    for n, c in itertools.product(range(x.shape[0]), range(x.shape[1])):
        first = c // per_group * weight.shape[1]
        for at in itertools.product(*(range(x.shape[a]) for a in spatial)):
            cut: Any = tuple(slice(i * s, i * s + r, d) for i, s, r, d in zip(at, stride, reach, dilation, strict=True))
            out[n, first : first + weight.shape[1], *cut] += int(x[n, c, *at]) * weight[c].astype(np.int64)
    crop: Any = tuple(slice(p, n - p) for p, n in zip(padding, full, strict=True))
    return out[:, :, *crop]


def pool(
    x: Array,
    kernel: Sequence[int],
    stride: Sequence[int],
    padding: Sequence[int],
    dilation: Sequence[int],
    sizes: Sequence[int],
    reduce: Callable[[list[int]], int],
) -> Array:
    """`reduce` over the elements of each window that lie inside of the image (N, C, ...); `sizes` of the result."""
    out = np.zeros((*x.shape[:2], *sizes), np.int64)
    for n, c, *at in itertools.product(*map(range, out.shape)):
        places = [
            [p for k in range(kernel[a]) if 0 <= (p := i * stride[a] - padding[a] + k * dilation[a]) < x.shape[2 + a]]
            for a, i in enumerate(at)
        ]
        out[n, c, *at] = reduce([int(x[n, c, *place]) for place in itertools.product(*places)])
    return out


def softmax_row(row: Sequence[int], table: Sequence[int], one: int, zero: int, qmin: int, qmax: int) -> list[int]:
    """One row of `fxq.softmax`."""
    powers = [int(table[max(row) - x]) for x in row]
    reciprocal = one // max(sum(powers), 1)
    return [clamp(round_half_up(Fraction(p * reciprocal, 2**32)) + zero, qmin, qmax) for p in powers]


def layer_norm_row(
    row: Sequence[int],
    multiplier: Sequence[int],
    offset: Sequence[int],
    epsilon: int,
    half: int,
    qmin: int,
    qmax: int,
    total: int | None = None,
) -> list[int]:
    """One row of `fxq.layer_norm`; about a `total` of 0, of `fxq.rms_norm`."""
    length = len(row)
    total = sum(row) if total is None else total
    variance = max(1, (sum(x * x for x in row) * length - total * total) * 4**half + epsilon)
    # Normalized to 61 or 62 bits by an even shift.
    exponent = (62 - variance.bit_length()) // 2
    reciprocal = min(2**61 // math.isqrt(variance << (2 * exponent)), 2**31 - 1)
    out = []
    for x, m, b in zip(row, multiplier, offset, strict=True):
        normal = round_half_up(Fraction((x * length - total) * reciprocal, 2 ** (41 - half - exponent)))
        out.append(clamp(round_half_up(Fraction(normal * m + b, 2**32)), qmin, qmax))
    return out


def log_sum_row(
    row: Sequence[int],
    powers: Sequence[int],
    curve: Sequence[int],
    zero: int,
    fraction: int,
    octave: int,
    origin: int,
) -> int:
    """One row of `fxq.log_sum`."""
    total = max(1, sum(int(powers[max(row) - x]) for x in row))
    exponent = 31 - total.bit_length()
    place, rest = divmod((total << exponent) - (1 << 30), 1 << 22)
    between = math.floor(Fraction((curve[place + 1] - curve[place]) * rest, 1 << 22))
    return ((max(row) - zero) << fraction) + curve[place] + between + origin - exponent * octave
