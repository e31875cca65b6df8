"""The last word on the scales of a weight: coarser where kernels, or the layer's bias in its 32 bits, ask for it."""

from __future__ import annotations

import torch
from torch import Tensor, fx

from fxquant.plan import is_dynamic, operands, range_of
from fxquant.products import fit_products
from fxquant.qparams import LARGEST_SCALE, QParams, as_float32
from fxquant.scheme import Scheme

# A bias may use this much of the accumulator; products get the rest. Sums of 16-bit operands may be wider than that.
BIAS_LIMIT, WIDE_BIAS_LIMIT = 1 << 28, 1 << 30


def fit_scales(
    node: fx.Node, weight: Tensor, axis: int, scales: list[float], scheme: Scheme, bias: Tensor | None
) -> list[float]:
    """Scales of the layer `node` by channel along `axis`, as much coarser as it must be.

    A channel without weights has the finest scale of the others: its bias is all that it computes.
    """
    if len(scales) > 1:
        largest = weight.detach().abs().movedim(axis, 0).flatten(1).amax(1).tolist()
        used = [s for s, most in zip(scales, largest, strict=True) if most > 0]
        if used:
            scales = [s if most > 0 else min(used) for s, most in zip(scales, largest, strict=True)]
    scales = fit_products(node, weight, axis, scales, scheme)
    found = None if is_dynamic(node) else range_of(operands(node)[0])
    return scales if bias is None or found is None else _fit_bias(bias, found.qparams, scales)


def _fit_bias(bias: Tensor, operand: QParams, scales: list[float]) -> list[float]:
    """A channel whose weights are tiny beside its bias gets a coarser scale: its bias is what counts."""
    limit = WIDE_BIAS_LIMIT if operand.dtype is torch.int16 else BIAS_LIMIT
    needed = bias.double().abs() / (operand.one_scale * limit)
    grouped = needed.reshape(-1, len(scales)).amax(0).tolist()
    return [as_float32(min(max(s, n), LARGEST_SCALE)) for s, n in zip(scales, grouped, strict=True)]
