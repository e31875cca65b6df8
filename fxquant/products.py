"""Weight scales that leave room for neighbouring products in a sum of 16 bits.

    |w| <= 127 for every w  =>  and 255 * (sum of the positive w of each group) <= 32767, the negative ones likewise

x86 without VNNI multiplies bytes by `vpmaddubsw`, which adds two neighbouring products in 16 bits and saturates. It may
be used where the weights prove that no input can saturate it; other weights take s16 products, which are as exact and
slower. A channel whose scale is a little coarser fits. Nothing depends on it but speed: kernels look at the weights.

A group are the weights of `products` bytes that meet in one 16-bit lane: neighbours in the order (kernel row, kernel
column, input channel), and with four products also the same two of the next four bytes. The last four bytes of a kernel
row end with it. Of a depthwise kernel of three rows, they are the outer two of each column.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.arguments import int_arg, ints_arg
from fxquant.geometry import is_quads, is_winograd
from fxquant.qparams import LARGEST_SCALE, as_float32
from fxquant.scheme import Scheme

LIMIT = 128  # 255 * 128 = 32640 <= 32767, and 255 * 129 is beyond -32768
WINOGRAD_CHANNELS = 16
FEW_INPUTS = 16  # input channels below which a layer has few weights, so that each one's precision matters
_TURNS = 20
_MARGIN = 1.0005


def fit_products(node: fx.Node, weight: Tensor, axis: int, scales: list[float], scheme: Scheme) -> list[float]:
    """`scales` (one per channel along `axis` of `weight`), each as much coarser as `scheme.products` asks for.

    Left as they are: 3x3 convolutions that are computed by Winograd's transform and all but a certain kind of depthwise
    ones, with 16-bit operands anyway. Layers of fewer than `FEW_INPUTS` channels get room for two products at most.
    """
    channels = weight.movedim(axis, 0)
    if scheme.products == 1 or _by_winograd(node, weight):
        return scales
    largest: Callable[[Tensor], Tensor]
    if _is_depthwise(node, channels):
        if not _has_outer_rows(node, channels):
            return scales
        largest = outer_sums
    else:
        largest = partial(largest_sums, products=scheme.products if channels.shape[1] >= FEW_INPUTS else 2)
    found = _fitted(channels.movedim(1, -1), torch.tensor(scales, dtype=torch.float32), scheme, largest)
    if scheme.axis is None:
        found = found.amax().expand(len(scales))
    return [as_float32(min(scale, LARGEST_SCALE)) for scale in found.tolist()]


def _fitted(ordered: Tensor, scales: Tensor, scheme: Scheme, largest: Callable[[Tensor], Tensor]) -> Tensor:
    """The finest scales, up to rounding, whose integers have no larger sums than `LIMIT`."""
    found = scales
    for _ in range(_TURNS):
        integers = torch.round(ordered / found.reshape(-1, *[1] * (ordered.ndim - 1))).clamp(scheme.qmin, scheme.qmax)
        reach = largest(integers)
        if not bool((reach > LIMIT).any()):
            break
        found = torch.where(reach > LIMIT, found * reach / LIMIT * _MARGIN, found)
    return found


def largest_sums(integers: Tensor, products: int) -> Tensor:
    """The largest sum of same-sign weights of any group, by channel: weights (channels, [kernel ...], inputs)."""
    rows = integers.flatten(-2) if integers.ndim > 2 else integers
    rows = rows.flatten(1, -2) if rows.ndim > 2 else rows[:, None]
    pairs = products // 2
    whole = rows.shape[-1] // 4 * 4
    aligned = torch.cat([F.pad(rows[..., :whole], (0, -rows.shape[-1] % 4)), rows[..., whole:]], -1)
    padded = F.pad(aligned, (0, -aligned.shape[-1] % (4 * pairs)))
    # (channel, row, group of windows, window, lane, byte) -> (channel, everything, the bytes of one lane)
    groups = padded.reshape(*rows.shape[:2], -1, pairs, 2, 2).transpose(3, 4).reshape(len(rows), -1, products)
    return torch.maximum(groups.clamp(min=0).sum(-1), (-groups).clamp(min=0).sum(-1)).amax(1)


def outer_sums(integers: Tensor) -> Tensor:
    """The same of depthwise weights (channels, 3, columns, 1), whose first and last rows meet."""
    outer = integers[:, [0, -1]]
    return torch.maximum(outer.clamp(min=0).sum(1), (-outer).clamp(min=0).sum(1)).flatten(1).amax(1)


def _is_depthwise(node: fx.Node, channels: Tensor) -> bool:
    """A convolution with one input channel for each of several groups."""
    return channels.ndim > 2 and channels.shape[1] == 1 and int_arg(node, "groups") != 1


def _has_outer_rows(node: fx.Node, channels: Tensor) -> bool:
    """Depthwise weights whose kernel takes them four bytes at a time."""
    groups, kernel, dilation = int_arg(node, "groups"), tuple(channels.shape[2:]), tuple(ints_arg(node, "dilation"))
    return is_quads(groups, len(channels), groups, kernel, dilation)


def _by_winograd(node: fx.Node, weight: Tensor) -> bool:
    """A convolution that Winograd's transform is for, with enough channels to be faster."""
    if weight.ndim != 4 or min(weight.shape[:2]) < WINOGRAD_CHANNELS:
        return False
    return is_winograd(tuple(weight.shape[2:]), tuple(ints_arg(node, "stride")), int_arg(node, "groups"))
