"""Resizing and padding: nearest neighbours are copied, linear interpolation uses fixed-point weights."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.primitives.registry import primitive

# Each axis' pair of weights sums to 2^FRACTION, or to less for wide operands: two axes and 9-bit values stay below
# 2^31.
FRACTION = 10


def _copied(x: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    leading = x.shape[:-2] if rows else x.shape[:-1]
    return x.new_empty((*leading, *([len(rows)] if rows else []), len(columns)))


@primitive(_copied, is_image=True)
def upsample_nearest(x: Tensor, rows: list[int], columns: list[int]) -> Tensor:
    """out[..., i, j] = x[..., rows[i], columns[j]]; an empty `rows` means that there is only the last axis."""
    out = x.index_select(-1, torch.tensor(columns, device=x.device))
    return out.index_select(-2, torch.tensor(rows, device=x.device)) if rows else out


def _interpolated(x: Tensor, _zero: int, indices: list[Tensor], weights: list[Tensor]) -> Tensor:
    sizes = [index.shape[0] for index in indices]
    return x.new_empty((*x.shape[: -len(sizes)], *sizes), dtype=torch.int32)


@primitive(_interpolated)
def interpolate(x: Tensor, zero_point: int, indices: list[Tensor], weights: list[Tensor]) -> Tensor:
    """Weighted sums of x - zero_point along the last axes, scaled by the sums of the weights: resizing; s32.

    For each of the last axes `indices[k]` is (out, taps) source positions and `weights[k]` (out, taps) integers of the
    same sum in every row, a power of two.
    """
    out = x.to(torch.int32) - zero_point
    for axis, (index, weight) in enumerate(zip(indices, weights, strict=True), start=x.ndim - len(indices)):
        shape = [1] * x.ndim
        shape[axis] = -1
        taps = [
            out.index_select(axis, index[:, k].to(torch.int64)) * weight[:, k].to(torch.int32).reshape(shape)
            for k in range(index.shape[1])
        ]
        out = sum(taps[1:], taps[0])
    return out


def _padded(x: Tensor, widths: list[int], value: int) -> Tensor:
    sizes = list(x.shape)
    for axis, (before, after) in enumerate(zip(widths[::2], widths[1::2], strict=True), start=1):
        sizes[-axis] = sizes[-axis] + before + after
    return x.new_empty(sizes)


@primitive(_padded)
def pad(x: Tensor, widths: list[int], value: int) -> Tensor:
    """`value` around the last axes, `widths` as in torch: (before, after) from the last axis backwards; may crop."""
    return torch.nn.functional.pad(x, widths, "constant", value)
