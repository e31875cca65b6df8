"""Softmax, its logarithm, and normalization of rows in integers, defined to the bit.

Softmax: e^-x comes from a table of fixed-point powers, the sum is exact, and its reciprocal is one integer division per
row, at any scale. The logarithm of the sum comes from a table, too. Layer normalization: mean and
variance are exact integers, the inverse square root is the floor square root of a 62-bit number, and the affine part is
a requantization with a 64-bit offset.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.primitives.registry import narrow, primitive, rounded, same_shape

# The normalized value of layer_norm is kept with this many fractional bits.
NORM_FRACTION = 20


@primitive(same_shape)
def softmax(x: Tensor, table: Tensor, one: int, zero_point: int, qmin: int, qmax: int) -> Tensor:
    """Softmax over the last axis, where a probability of 1 is `one` / 2^32 steps above the zero point.

    `table[d]` is round(2^b * exp(-scale * d)) for d = max - x, s32, with b such that a whole row sums to less than
    2^31; `one` is less than 2^(31 + b), so that no row's quotient has more than 31 bits.
    """
    wide = x.to(torch.int64)
    power = table.to(torch.int64)[wide.amax(-1, keepdim=True) - wide]
    reciprocal = one // power.sum(-1, keepdim=True).clamp(min=1)
    return narrow(rounded(power * reciprocal) + zero_point, qmin, qmax)


def _row_sums(x: Tensor, *rest: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], 1), dtype=torch.int32)


@primitive(_row_sums)
def log_sum(
    x: Tensor, powers: Tensor, logarithms: Tensor, zero_point: int, fraction: int, octave: int, origin: int
) -> Tensor:
    """log(sum(e^x)) over the last axis, which stays with length 1; s32 in units of 2^-fraction steps of `x`.

    `powers` is softmax's table. `logarithms[i]`, s32, is log(1 + i / 256) in these units, between which is linear
    interpolation; `octave` is that of 2, and `origin` that of 2^30 in units of the powers.
    """
    wide = x.to(torch.int64)
    peak = wide.amax(-1, keepdim=True)
    total = powers.to(torch.int64)[peak - wide].sum(-1, keepdim=True).clamp(min=1)
    exponent = torch.zeros_like(total)
    for step in (16, 8, 4, 2, 1):
        fits = total < (1 << (31 - step))
        total = torch.where(fits, total << step, total)
        exponent = exponent + torch.where(fits, step, 0)
    place, rest = (total >> 22) - 256, total & ((1 << 22) - 1)
    table = logarithms.to(torch.int64)
    logarithm = table[place] + ((table[place + 1] - table[place]) * rest >> 22)
    return ((peak - zero_point << fraction) + logarithm + origin - exponent * octave).to(torch.int32)


@primitive(same_shape)
def layer_norm(x: Tensor, multiplier: Tensor, offset: Tensor, epsilon: int, half: int, qmin: int, qmax: int) -> Tensor:
    """Layer normalization over the last axis of length D.

    The variance has 2 * `half` fractional bits, and `epsilon` is round(4^half * eps * D^2 / scale^2). `multiplier`
    s32 (D,) is gamma / out_scale * 2^12, `offset` s64 (D,) is (beta / out_scale + zero_point) * 2^32. The zero point of
    `x` cancels.
    """
    wide = x.to(torch.int64)
    return narrow(_normalized(wide, wide.sum(-1, keepdim=True), multiplier, offset, epsilon, half), qmin, qmax)


@primitive(same_shape)
def rms_norm(
    x: Tensor, zero_point: int, multiplier: Tensor, offset: Tensor, epsilon: int, half: int, qmin: int, qmax: int
) -> Tensor:
    """The same about zero: x - zero_point over the root of its mean square along the last axis."""
    wide = x.to(torch.int64)
    total = torch.full_like(wide[..., :1], zero_point * x.shape[-1])
    return narrow(_normalized(wide, total, multiplier, offset, epsilon, half), qmin, qmax)


def _normalized(wide: Tensor, total: Tensor, multiplier: Tensor, offset: Tensor, epsilon: int, half: int) -> Tensor:
    """x about `total` / D, over the root of its mean square there."""
    length = wide.shape[-1]
    centred = wide * length - total
    squares = (wide * wide).sum(-1, keepdim=True) * length - 2 * total * wide.sum(-1, keepdim=True) + total * total
    reciprocal, exponent = inverse_sqrt(((squares << (2 * half)) + epsilon).clamp(min=1))
    drop = 61 - NORM_FRACTION - half - exponent
    normal = (centred * reciprocal + (torch.ones_like(drop) << (drop - 1))) >> drop
    return rounded(normal * multiplier.to(torch.int64) + offset)


def inverse_sqrt(v: Tensor) -> tuple[Tensor, Tensor]:
    """1 / sqrt(v) ~ r * 2^(e - 61) for 1 <= v < 2^62: r in (2^30, 2^31), and e the shift that normalized v."""
    exponent = torch.zeros_like(v)
    for step in (16, 8, 4, 2, 1):
        fits = v < (1 << (62 - 2 * step))
        v = torch.where(fits, v << (2 * step), v)
        exponent = exponent + torch.where(fits, step, 0)
    root = floor_sqrt(v)
    return ((1 << 61) // root).clamp(max=(1 << 31) - 1), exponent


def floor_sqrt(v: Tensor) -> Tensor:
    """Largest r with r * r <= v, for 0 <= v < 2^62."""
    root = v.to(torch.float64).sqrt().to(torch.int64)
    root = torch.where(root * root > v, root - 1, root)
    return torch.where((root + 1) * (root + 1) <= v, root + 1, root)
