"""Pooling and reductions. Averages are sums here; the division is part of the requantization that follows."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor

from fxquant.primitives.registry import accumulators, primitive


def _maxima(x: Tensor, kernel: list[int], *rest: Any) -> Tensor:
    function: Any = torch.nn.functional.max_pool1d if len(kernel) == 1 else torch.nn.functional.max_pool2d
    pooled = function(x.float(), kernel, *rest)
    return x.new_empty(pooled.shape)


@primitive(_maxima, is_image=True)
def max_pool(
    x: Tensor, kernel: list[int], stride: list[int], padding: list[int], dilation: list[int], ceil_mode: bool
) -> Tensor:
    """Largest value of each window; padding never wins."""
    function = torch.nn.functional.max_pool1d if len(kernel) == 1 else torch.nn.functional.max_pool2d
    pooled = function(x.to(torch.float32), kernel, stride, padding, dilation, ceil_mode)
    return pooled.to(x.dtype)


def _windows(x: Tensor, _zero: int, kernel: list[int], *rest: Any) -> Tensor:
    function: Any = torch.nn.functional.avg_pool1d if len(kernel) == 1 else torch.nn.functional.avg_pool2d
    return accumulators(function(x.float(), kernel, *rest))


@primitive(_windows)
def sum_pool(
    x: Tensor, zero_point: int, kernel: list[int], stride: list[int], padding: list[int], ceil_mode: bool
) -> Tensor:
    """Sum of x - zero_point over each window, padding counting nothing; s32."""
    centred = (x.to(torch.int32) - zero_point).to(torch.float64)
    flat = len(kernel) == 1
    if flat:
        centred = centred.unsqueeze(2)
        kernel, stride, padding = [1, *kernel], [1, *stride], [0, *padding]
    total = torch.nn.functional.avg_pool2d(centred, kernel, stride, padding, ceil_mode, True, divisor_override=1)
    total = total.squeeze(2) if flat else total
    return torch.round(total).to(torch.int32)


def _adaptive(x: Tensor, _zero: int, size: list[int]) -> Tensor:
    return x.new_empty((*x.shape[: -len(size)], *size), dtype=torch.int32)


@primitive(_adaptive)
def adaptive_sum_pool(x: Tensor, zero_point: int, size: list[int]) -> Tensor:
    """Sum of x - zero_point over the windows of adaptive average pooling (torch's split of each axis); s32."""
    total = x.to(torch.int32) - zero_point
    for axis, count in enumerate(size, start=x.ndim - len(size)):
        length = x.shape[axis]
        windows = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
        parts = [total.narrow(axis, a, b - a).sum(axis, keepdim=True, dtype=torch.int32) for a, b in windows]
        total = torch.cat(parts, axis)
    return total


def _reduced(x: Tensor, _zero: int, dims: list[int], keepdim: bool) -> Tensor:
    axes = {d % x.ndim for d in dims}
    sizes = [1 if axis in axes else n for axis, n in enumerate(x.shape) if keepdim or axis not in axes]
    return x.new_empty(sizes, dtype=torch.int32)


@primitive(_reduced)
def sum_reduce(x: Tensor, zero_point: int, dims: list[int], keepdim: bool) -> Tensor:
    """Sum of x - zero_point over `dims`; s32."""
    return (x.to(torch.int32) - zero_point).sum(dims, keepdim=keepdim, dtype=torch.int32)


def _extremes(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    return _reduced(x, 0, dims, keepdim).to(x.dtype)


@primitive(_extremes)
def max_reduce(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    """Largest value over `dims`."""
    return x.amax(dims, keepdim)


@primitive(_extremes)
def min_reduce(x: Tensor, dims: list[int], keepdim: bool) -> Tensor:
    """Smallest value over `dims`."""
    return x.amin(dims, keepdim)
