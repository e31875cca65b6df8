"""Pairs of layers whose channels can be scaled between them, as EqualizeLayers does it.

%c = conv2d(...); %r = relu(%c); %d = conv2d(%r, ...)   =>   Pair(first=%c, second=%d, path=[%c, %r], axis=1)
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.arguments import argument, node_arg
from fxquant.graph import calls, reads_values, shape

aten = torch.ops.aten

_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default)
_LAYERS = (*_CONVOLUTIONS, aten.linear.default)
# f(s x) = s f(x) for s > 0, channel by channel.
_HOMOGENEOUS = (aten.relu.default, aten.leaky_relu.default, aten.prelu.default, aten._prelu_kernel.default,
                aten.max_pool1d.default, aten.max_pool2d.default, aten.avg_pool1d.default, aten.avg_pool2d.default,
                aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default)  # fmt: skip
_PADS = (aten.pad.default, aten.constant_pad_nd.default)
_MOVES = (aten.flatten.using_ints, aten.view.default, aten.reshape.default)


@dataclass(frozen=True)
class Pair:
    """Two layers with constant weights; `path` are the values between them, the first layer's among them.

    `axis` is that of the channels, in all of them.
    """

    first: fx.Node
    second: fx.Node
    path: tuple[fx.Node, ...]
    axis: int

    @property
    def last(self) -> fx.Node:
        """The value that the second layer reads."""
        return self.path[-1]

    @property
    def reads(self) -> list[fx.Node]:
        """All values of the graph that it takes to compute both layers."""
        return [operand for node in (*self.path, self.second) for operand in node.all_input_nodes]


def pairs(module: fx.GraphModule) -> list[Pair]:
    """All pairs, in the order of the graph. A layer may be the second of one and the first of the next."""
    return [pair for first in calls(module.graph, *_LAYERS) if (pair := _pair(first)) is not None]


def _pair(first: fx.Node) -> Pair | None:
    if not _has_constants(first):
        return None
    axis = 1 if first.target in _CONVOLUTIONS else len(shape(first)) - 1
    path = [first]
    while (user := _only_reader(path[-1])) is not None:
        if user.target in _LAYERS:
            return Pair(first, user, tuple(path), axis) if _takes(user, path[-1], axis) else None
        if not _keeps_factors(user, path[-1], axis):
            return None
        path.append(user)
    return None


def _only_reader(node: fx.Node) -> fx.Node | None:
    readers = [user for user in node.users if reads_values(user)]
    return readers[0] if len(readers) == 1 and readers[0].op == "call_function" else None


def _has_constants(layer: fx.Node) -> bool:
    bias = argument(layer, "bias")
    return node_arg(layer, 1).op == "get_attr" and (bias is None or bias.op == "get_attr")


def _takes(layer: fx.Node, value: fx.Node, axis: int) -> bool:
    """Whether the layer reads the value's channels, each by weights of its own."""
    if layer.args[0] is not value or not _has_constants(layer):
        return False
    ndim = len(shape(value))
    return axis == ndim - 1 if layer.target is aten.linear.default else axis == 1 and ndim > 2


def _keeps_factors(node: fx.Node, operand: fx.Node, axis: int) -> bool:
    if node.args[0] is not operand or not isinstance(node.meta["val"], Tensor):
        return False
    if node.target in _HOMOGENEOUS:
        # Pooling must not mix the channels of what is no image to it.
        return axis == 1 or node.target in _HOMOGENEOUS[:2]
    if node.target in _PADS:
        return axis == 1 and _pads_zeros(node)
    if node.target is aten.mean.dim:
        dims = [int(d) % len(shape(operand)) for d in argument(node, "dim") or [0]]
        return min(dims) > axis
    return node.target in _MOVES and _stays(shape(operand), shape(node), axis)


def _pads_zeros(node: fx.Node) -> bool:
    """Whether only axes behind the channels are padded, and with what is zero times any factor, or values again."""
    pads: Any = argument(node, "pad")
    zeros = node.target is aten.constant_pad_nd.default or argument(node, "mode") == "constant"
    return len(pads) // 2 < len(shape(node)) - 1 and not (zeros and argument(node, "value"))


def _stays(before: tuple[Any, ...], after: tuple[Any, ...], axis: int) -> bool:
    """Whether a channel is one after the move, too: (N, C, 1, 1) => (N, C)."""
    rest = [size for size in before[axis + 1 :] if size != 1]
    return axis == 1 and not rest and len(after) == 2 and str(after[1]) == str(before[1])
