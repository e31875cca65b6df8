"""Between real numbers and integers: quantize, dequantize, and what is joined behind them."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from fxquant.primitives.registry import narrow, primitive, same_shape


@primitive(same_shape, is_image=True)
def quantize(x: Tensor, scale: float, zero_point: int, qmin: int, qmax: int) -> Tensor:
    """q = clamp(round_half_even(x / scale) + zero_point, qmin, qmax); NaN gives the zero point."""
    steps = torch.round(x / torch.tensor(scale, dtype=torch.float32, device=x.device))
    return narrow(torch.nan_to_num(steps, nan=0.0, posinf=torch.inf, neginf=-torch.inf) + zero_point, qmin, qmax)


def _real(q: Tensor, *rest: object) -> Tensor:
    return q.new_empty(q.shape, dtype=torch.float32)


@primitive(_real)
def dequantize(q: Tensor, scale: float, zero_point: int) -> Tensor:
    """x = (q - zero_point) * scale, in float32."""
    return (q.to(torch.int32) - zero_point).to(torch.float32) * torch.tensor(scale, dtype=torch.float32)


@primitive(_real)
def dequantize_channels(q: Tensor, scale: Tensor, axis: int) -> Tensor:
    """x = q * scale[channel] along `axis`, in float32: symmetric weights."""
    shape = [1] * q.ndim
    shape[axis] = -1
    return q.to(torch.float32) * scale.reshape(shape)


def _joined(parts: Sequence[Tensor], dim: int) -> Tensor:
    return torch.cat(list(parts), dim)


@primitive(_joined)
def join(parts: Sequence[Tensor], dim: int) -> Tensor:
    """Real numbers side by side along `dim`: an output whose parts have scales too different for one range."""
    return torch.cat(list(parts), dim)
