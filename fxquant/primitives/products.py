"""Sums of products into 32-bit accumulators. Padding contributes zero, that is, it stands for the zero point.

Sums of 16-bit operands that 32 bits may not hold are taken exactly, and then lose their last bits, rounded: `drop`.

The reference computes in float64, or in float32 where every partial sum is provably an exact integer there.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod
from typing import Any

import torch
from torch import Tensor

from fxquant.primitives.registry import accumulators, broadcast, is_exact_in_float32, primitive


def _real(x: Tensor, weight: Tensor, zero_point: int, taps: tuple[int, ...]) -> tuple[Tensor, Tensor]:
    """Operands as floats in which every partial sum is exact; `taps` are the weight's axes that a result sums over."""
    centred = x.to(torch.int32) - zero_point
    bound = centred.abs().amax().double() * weight.abs().sum(taps, dtype=torch.float64).amax()
    dtype = torch.float32 if is_exact_in_float32(bound) else torch.float64
    return centred.to(dtype), weight.to(dtype)


def _wide(weight: Tensor) -> Tensor:
    # -128 has no magnitude in 8 bits.
    return weight.to(torch.int32)


def _biased(acc: Tensor, bias: Tensor | None, channel: int, drop: int) -> Tensor:
    total = acc.to(torch.int64)
    if bias is not None:
        shape = [1] * acc.ndim
        shape[channel] = -1
        total = total + bias.reshape(shape)
    return _dropped(total, drop)


def _dropped(total: Tensor, drop: int) -> Tensor:
    """An s64 sum in s32, rounded to multiples of 2^drop and without these bits; ties towards plus infinity."""
    return (total + (1 << drop >> 1) >> drop).to(torch.int32)


def _convolved(
    x: Tensor, weight: Tensor, bias: Tensor | None, _zero: int, stride: list[int], padding: list[int], *rest: Any
) -> Tensor:
    # By formula: torch's own shape function is slow on a symbolic batch, and there is one per layer.
    dilation: list[int] = rest[0]
    settings = zip(x.shape[2:], weight.shape[2:], stride, padding, dilation, strict=True)
    sizes = [(n + 2 * p - d * (k - 1) - 1) // s + 1 for n, k, s, p, d in settings]
    return x.new_empty((x.shape[0], weight.shape[0], *sizes), dtype=torch.int32)


def _transposed(
    x: Tensor, weight: Tensor, bias: Tensor | None, _zero: int, stride: list[int], padding: list[int], *rest: Any
) -> Tensor:
    extra, dilation, groups, *_ = rest
    function: Any = torch.conv_transpose1d if len(stride) == 1 else torch.conv_transpose2d
    return accumulators(function(x.float(), weight.float(), None, stride, padding, extra, groups, dilation))


def _by_window(result: Sequence[int], operands: Mapping[str, Sequence[int]]) -> int:
    """Every result is a sum over a window: weights are (out, in / groups, kernel)."""
    return prod(result) * prod(operands["weight"][1:])


def _by_operand(_result: Sequence[int], operands: Mapping[str, Sequence[int]]) -> int:
    """Every operand is spread over a window: weights are (in, out / groups, kernel)."""
    return prod(operands["x"]) * prod(operands["weight"][1:])


def _by_row(result: Sequence[int], operands: Mapping[str, Sequence[int]]) -> int:
    """Every result is a sum over a row of the first operand."""
    return prod(result) * next(iter(operands.values()))[-1]


@primitive(_convolved, macs=_by_window, has_weights=True, drops=True)
def conv(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    zero_point: int,
    stride: list[int],
    padding: list[int],
    dilation: list[int],
    groups: int,
    drop: int = 0,
) -> Tensor:
    """acc[n,o,...] = sum((x - zero_point) * weight) + bias: 1-d or 2-d by the length of `stride`; s32.

    The exact sum is rounded to multiples of 2^drop and loses these bits.
    """
    a, w = _real(x, _wide(weight), zero_point, tuple(range(1, weight.ndim)))
    function = torch.conv1d if len(stride) == 1 else torch.conv2d
    return _biased(function(a, w, None, stride, padding, dilation, groups), bias, 1, drop)


@primitive(_transposed, macs=_by_operand, has_weights=True, drops=True)
def conv_transpose(
    x: Tensor,
    weight: Tensor,
    bias: Tensor | None,
    zero_point: int,
    stride: list[int],
    padding: list[int],
    output_padding: list[int],
    dilation: list[int],
    groups: int,
    drop: int = 0,
) -> Tensor:
    """The transposed convolution; weight is (in, out / groups, ...) as in torch; s32, less `drop` bits."""
    a, w = _real(x, _wide(weight), zero_point, (0, *range(2, weight.ndim)))
    function = torch.conv_transpose1d if len(stride) == 1 else torch.conv_transpose2d
    return _biased(function(a, w, None, stride, padding, output_padding, groups, dilation), bias, 1, drop)


def _linear(x: Tensor, weight: Tensor, *rest: object) -> Tensor:
    return x.new_empty((*x.shape[:-1], weight.shape[0]), dtype=torch.int32)


@primitive(_linear, macs=_by_row, has_weights=True, drops=True)
def linear(x: Tensor, weight: Tensor, bias: Tensor | None, zero_point: int, drop: int = 0) -> Tensor:
    """acc = (x - zero_point) @ weight.T + bias over the last axis; s32, less `drop` bits."""
    a, w = _real(x, _wide(weight), zero_point, (1,))
    return _biased(torch.matmul(a, w.T), bias, -1, drop)


def _matmul(a: Tensor, a_zero: int, b: Tensor, b_zero: int, drop: int = 0) -> Tensor:
    return accumulators(torch.matmul(a.float(), b.float()))


@primitive(_matmul, macs=_by_row, drops=True)
def matmul(a: Tensor, a_zero: int, b: Tensor, b_zero: int, drop: int = 0) -> Tensor:
    """acc = (a - a_zero) @ (b - b_zero), batched over the leading axes; s32, less `drop` bits."""
    left, right = _real(a, b.to(torch.int32) - b_zero, a_zero, (-2,))
    return _dropped(torch.matmul(left, right).to(torch.int64), drop)


def _mul(a: Tensor, a_zero: int, b: Tensor, b_zero: int, drop: int = 0) -> Tensor:
    return broadcast(a, b, torch.int32)


@primitive(_mul, drops=True)
def mul(a: Tensor, a_zero: int, b: Tensor, b_zero: int, drop: int = 0) -> Tensor:
    """acc = (a - a_zero) * (b - b_zero), broadcast; s32, rounded to multiples of 2^drop and without these bits."""
    return _dropped((a.to(torch.int64) - a_zero) * (b.to(torch.int64) - b_zero), drop)
