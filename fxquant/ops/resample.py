"""Resizing: nearest neighbours move integers, bilinear interpolation sums them with fixed-point weights."""

from __future__ import annotations

import math
from collections.abc import Iterator
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.arguments import argument, arguments, callee, node_arg
from fxquant.graph import shape
from fxquant.ops.spelling import Int, Speller, Sum, Term, reach
from fxquant.ops.table import Channels, Fusion, RangeRule, float_op
from fxquant.primitives.resample import FRACTION

aten, fxq = torch.ops.aten, torch.ops.fxq


def _sizes(node: fx.Node, dims: int) -> Iterator[tuple[int, int]]:
    """Length before and after, for each of the last axes."""
    before, after = shape(node_arg(node, 0))[-dims:], shape(node)[-dims:]
    return ((int(a), int(b)) for a, b in zip(before, after, strict=True))


@float_op(aten.upsample_nearest1d.vec, aten.upsample_nearest2d.vec, range=RangeRule.SHARED, channels=Channels.WITHIN)
def upsample_nearest(s: Speller, node: fx.Node) -> Int:
    """Copies of the nearest value, at torch's own positions."""
    dims = node.meta["val"].ndim - 2
    positions = []
    for axis, (length, count) in enumerate(_sizes(node, dims)):
        ramp = torch.arange(length, dtype=torch.float32).reshape(1, 1, length)
        factors = argument(node, "scale_factors")
        scale = None if factors is None else (float(factors[axis]),)
        spread = aten.upsample_nearest1d.vec(ramp, [count] if scale is None else None, scale)
        positions.append([int(i) for i in spread.flatten()])
    rows, columns = ([], positions[0]) if dims == 1 else positions
    x = s.int_(node.args[0])
    return Int(s.call(fxq.upsample_nearest.default, x.node, rows, columns, like=node), x.qparams)


@float_op(aten.upsample_linear1d.vec, aten.upsample_bilinear2d.vec, fusion=Fusion.SUM, channels=Channels.WITHIN)
def upsample_linear(s: Speller, node: fx.Node) -> Sum:
    """Linear interpolation with weights of 10 fractional bits (7 per axis for 16-bit images), rounded once."""
    dims = node.meta["val"].ndim - 2
    x = s.int_(node.args[0])
    # The weights of all axes together and the operand must stay within 31 bits.
    fraction = min(FRACTION, (31 - reach(x.qparams).bit_length()) // dims)
    _, _, corners, factors = arguments(node)
    indices, weights = [], []
    for axis, (length, count) in enumerate(_sizes(node, dims)):
        factor = None if factors is None else float(factors[axis])
        index, weight = _axis(length, count, bool(corners), factor, fraction)
        indices.append(s.constant(index, node, f"index{axis}"))
        weights.append(s.constant(weight, node, f"weight{axis}"))
    acc = s.call(fxq.interpolate.default, x.node, x.qparams.one_zero_point, indices, weights, like=node)
    scale = x.qparams.one_scale / 2.0 ** (fraction * dims)
    return Sum((Term(acc, 0, torch.tensor([scale], dtype=torch.float64)),))


@float_op(
    aten.upsample_bicubic2d.vec,
    aten._upsample_bilinear2d_aa.vec,
    aten._upsample_bicubic2d_aa.vec,
    fusion=Fusion.SUM,
)
def resize(s: Speller, node: fx.Node) -> Sum:
    """Cubic and antialiased resizing, its weights as torch's own code has them, in fixed point, rounded once."""
    x, sizes = s.int_(node.args[0]), list(_sizes(node, 2))
    rows = [_weights(node, axis, *lengths) for axis, lengths in enumerate(sizes)]
    # All weights together and the operand must stay within 31 bits; some are below zero.
    most = float(torch.stack([r.abs().sum(1).max() for r in rows]).prod()) * reach(x.qparams)
    fraction = min(FRACTION, int((30 - math.log2(most)) / 2))
    indices, weights = [], []
    for axis, row in enumerate(rows):
        index, weight = _taps(row, fraction)
        indices.append(s.constant(index, node, f"index{axis}"))
        weights.append(s.constant(weight, node, f"weight{axis}"))
    acc = s.call(fxq.interpolate.default, x.node, x.qparams.one_zero_point, indices, weights, like=node)
    scale = x.qparams.one_scale / 2.0 ** (2 * fraction)
    return Sum((Term(acc, 0, torch.tensor([scale], dtype=torch.float64)),))


def _weights(node: fx.Node, axis: int, length: int, count: int) -> Tensor:
    """(after, before) weights of one axis: what becomes of an image with a one at each place of it."""
    _, _, corners, factors = arguments(node)
    # Not one row or column: torch's antialiasing gives each place the same there.
    size, factor = [2, 2], [1.0, 1.0]
    image = torch.eye(length, dtype=torch.float64).unsqueeze(2 - axis).unsqueeze(0)
    size[axis] = count
    if factors is not None:
        factor[axis] = float(factors[axis])
    spread = image.repeat(1, 1, *([1, 2] if axis == 0 else [2, 1]))
    given = (size, corners, None) if factors is None else (None, corners, factor)
    resized: Tensor = callee(node)(spread, *given)
    return resized.select(3 - axis, 0)[0].T


def _taps(rows: Tensor, fraction: int) -> tuple[Tensor, Tensor]:
    """The places of each row that count, and their weights in fixed point, whose sum is that of a whole."""
    most = int((rows != 0).sum(1).max())
    index = (rows != 0).to(torch.int8).argsort(dim=1, descending=True, stable=True)[:, :most].sort(1).values
    exact = rows.gather(1, index) * (1 << fraction)
    weight = torch.round(exact)
    rest = (1 << fraction) - weight.sum(1)
    weight[torch.arange(len(rows)), weight.argmax(1)] += rest
    return index.to(torch.int32), weight.to(torch.int32)


def _axis(length: int, count: int, corners: bool, factor: float | None, fraction: int) -> tuple[Tensor, Tensor]:
    """Source positions and weights of one axis, as torch.nn.functional.interpolate defines them."""
    out: Any = torch.arange(count, dtype=torch.float64)
    if corners:
        position = out * ((length - 1) / (count - 1) if count > 1 else 0.0)
    else:
        ratio = 1.0 / factor if factor else length / count
        position = ((out + 0.5) * ratio - 0.5).clamp(min=0.0)
    low = position.floor().clamp(max=length - 1)
    high = (low + 1).clamp(max=length - 1)
    second = torch.round((position - low).clamp(0.0, 1.0) * (1 << fraction))
    index = torch.stack([low, high], 1).to(torch.int32)
    weight = torch.stack([(1 << fraction) - second, second], 1).to(torch.int32)
    return index, weight
