"""Ranges that are found while the network runs: one scale for each sample, a value of the graph like any other.

    scale = max |x| / levels        q = clamp(round_half_even(x * (1 / scale)) + zero_point, qmin, qmax)
    y     = float(acc) * (factor * scale) + bias

Every step is one operation of IEEE float32 with one rounding, and a maximum is the same in whatever order it is found,
so that these floats are equal on every target, too. NaN counts for nothing in the range, and becomes the zero point.
"""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.primitives.registry import narrow, primitive, same_shape
from fxquant.qparams import LARGEST_SCALE, SMALLEST_SCALE


def _per_sample(x: Tensor, levels: int) -> Tensor:
    return x.new_empty((x.shape[0],), dtype=torch.float32)


@primitive(_per_sample)
def dynamic_scale(x: Tensor, levels: int) -> Tensor:
    """One scale per sample (axis 0), so that the largest magnitude becomes `levels` steps."""
    magnitude = torch.where(torch.isnan(x), 0.0, x).abs()
    peak = magnitude.reshape(x.shape[0], -1).amax(1)
    return (peak / levels).clamp(SMALLEST_SCALE, LARGEST_SCALE)


def _quantized(x: Tensor, scale: Tensor, zero_point: int, qmin: int, qmax: int) -> Tensor:
    return same_shape(x, qmin, qmax)


@primitive(_quantized, is_image=True)
def quantize_dynamic(x: Tensor, scale: Tensor, zero_point: int, qmin: int, qmax: int) -> Tensor:
    """Integers of each sample's own scale."""
    steps = torch.round(x * _along(torch.reciprocal(scale), x))
    return narrow(torch.nan_to_num(steps, nan=0.0, posinf=torch.inf, neginf=-torch.inf) + zero_point, qmin, qmax)


def _real(q: Tensor, *rest: object) -> Tensor:
    return q.new_empty(q.shape, dtype=torch.float32)


@primitive(_real)
def dequantize_dynamic(q: Tensor, scale: Tensor, zero_point: int) -> Tensor:
    """x = (q - zero_point) * scale of its sample, in float32."""
    return (q.to(torch.int32) - zero_point).to(torch.float32) * _along(scale, q)


@primitive(_real)
def rescale_real(acc: Tensor, factor: Tensor, scale: Tensor, bias: Tensor) -> Tensor:
    """y = acc * (factor * scale) + bias: accumulators as real numbers; `factor` and `bias` broadcast against `acc`."""
    return acc.to(torch.float32) * (factor * _along(scale, acc)) + bias


def _along(scale: Tensor, x: Tensor) -> Tensor:
    """One number per sample, to be broadcast against `x`."""
    return scale.reshape(-1, *[1] * (x.ndim - 1))
