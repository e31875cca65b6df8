"""Gradients: what is rounded, and what was computed in integers, passes them on as the real numbers that it stands for.

    rounded = step * (clamp(round(x / step) + zero, qmin, qmax) - zero)
    d/dx      = 1 inside of the range, 0 outside (Bengio et al. 2013, "straight-through")
    d/dstep   = (rounded - x) / step inside, rounded / step outside (Esser et al. 2020, "Learned Step Size ...")

Inside is what is rounded to a code, up to half a step beyond the outermost ones: else the largest weight of a channel,
which a range begins with, would not be trained.

A step is held as its logarithm to the base of 2 (Jain et al. 2020, "Trained quantization thresholds"): it stays
positive under any optimizer, and a learning rate means the same share of it for all. Then the step cancels out of the
gradient, which is weighted by 1 / sqrt(number of values * qmax) as Esser et al. do.
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.arguments import arguments
from fxquant.ops.products import numbers

aten = torch.ops.aten

_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default)
# Products whose result in float is that of their integers: nothing is computed twice.
PRODUCTS = (*_CONVOLUTIONS, aten.linear.default)


def straight(x: Tensor, rounded: Tensor, log_step: Tensor, ends: tuple[Any, Any], weight: float) -> Tensor:
    """`rounded`, with the gradients of the formulas above for `x` and `log_step`.

    `log_step` is a scalar, or has one number for each channel and the shape that broadcasts against `x`; `ends` are
    where inside ends, real numbers or tensors of that shape.
    """
    if not torch.is_grad_enabled() or not (x.requires_grad or log_step.requires_grad):
        return rounded
    found: Tensor = _Straight.apply(x, rounded, log_step, *ends, weight)  # type: ignore[no-untyped-call]
    return found


def gradient_weight(count: int, qmax: int) -> float:
    """What the gradient of a step is multiplied by, `count` being the values that share it."""
    return 1.0 / math.sqrt(max(count, 1) * max(qmax, 1))


class _Straight(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, rounded: Tensor, log_step: Tensor, low: Any, high: Any, weight: float) -> Tensor:
        tensors = [end for end in (low, high) if isinstance(end, Tensor)]
        ctx.save_for_backward(x, rounded, *tensors)
        ctx.ends, ctx.weight, ctx.shape = None if tensors else (low, high), weight, log_step.shape
        return rounded.view_as(rounded)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (g,) = gradients
        x, rounded, *ends = ctx.saved_tensors
        low, high = ends if ctx.ends is None else ctx.ends
        inside = x.clamp(low, high) == x
        of_x = of_step = None
        if ctx.needs_input_grad[0]:
            of_x = g * inside
        if ctx.needs_input_grad[2]:
            slope = torch.where(inside, rounded - x, rounded)
            of_step = _summed(slope.mul_(g), ctx.shape) * (math.log(2.0) * ctx.weight)
        return of_x, None, of_step, None, None, None


def _summed(values: Tensor, shape: torch.Size) -> Tensor:
    """The sum over all that share a step."""
    return values.sum() if not shape else values.sum_to_size(shape)


def product(node: fx.Node, x: Tensor, weight: Tensor, bias: Tensor | None, real: Tensor) -> Tensor:
    """`real`, the product that the integers gave, with the gradients of the call `node` in float."""
    settings: tuple[Any, ...] = ()
    if node.target in _CONVOLUTIONS:
        *spatial, groups = arguments(node)[3:]
        stride, padding, dilation = (numbers(v, weight.ndim - 2) for v in spatial)
        settings = (stride, padding, dilation, False, [0] * (weight.ndim - 2), int(groups))
    found: Tensor = _Product.apply(x, weight, bias, real, settings)  # type: ignore[no-untyped-call]
    return found


class _Product(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, bias: Tensor | None, real: Tensor, settings: Any) -> Tensor:
        ctx.save_for_backward(x, weight)
        ctx.settings = settings
        ctx.bias_sizes = None if bias is None else list(bias.shape)
        return real.view_as(real)

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Any, ...]:
        (g,) = gradients
        x, weight = ctx.saved_tensors
        wanted = list(ctx.needs_input_grad[:3])
        if ctx.settings:
            return (
                *aten.convolution_backward.default(g, x, weight, ctx.bias_sizes, *ctx.settings, wanted),
                None,
                None,
            )
        rows = g.flatten(0, -2)
        of_x = g @ weight if wanted[0] else None
        of_weight = rows.T @ x.flatten(0, -2) if wanted[1] else None
        of_bias = rows.sum(0) if wanted[2] else None
        return of_x, of_weight, of_bias, None, None
