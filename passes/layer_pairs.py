"""Pairs of layers whose channels can be scaled between them, as EqualizeLayers does it.

%c = conv2d(...); %r = relu(%c); %d = conv2d(%r, ...)   =>   Pair(first=%c, seconds=[%d], path=[%c, %r], axis=1)
%n = layer_norm(...); %q = linear(%n, ...); %k = linear(%n, ...)
                                                        =>   Pair(first=%n, seconds=[%q, %k], path=[%n], axis=2)
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


_NORMS = (aten.layer_norm.default, aten.rms_norm.default)


@dataclass(frozen=True)
class Pair:
    """A layer and those that read it, with constant weights; `path` are the values between, the first layer's included.

    The first one may be a norm. `axis` is that of the channels, in all of them.
    """

    first: fx.Node
    seconds: tuple[fx.Node, ...]
    path: tuple[fx.Node, ...]
    axis: int

    @property
    def last(self) -> fx.Node:
        """The value that the second layers read."""
        return self.path[-1]

    @property
    def reads(self) -> list[fx.Node]:
        """All values of the graph that it takes to compute the layers, and what the second ones give."""
        return [*(operand for node in (*self.path, *self.seconds) for operand in node.all_input_nodes), *self.seconds]


def pairs(module: fx.GraphModule) -> list[Pair]:
    """All pairs, in the order of the graph. A layer may be a second of one and the first of the next."""
    return [pair for first in calls(module.graph, *_LAYERS, *_NORMS) if (pair := _pair(first)) is not None]


def is_norm(layer: fx.Node) -> bool:
    """Whether the layer is a norm, whose weights are not rounded."""
    return layer.target in _NORMS


def weight_place(layer: fx.Node) -> int:
    """The position of a layer's weight among its arguments."""
    return 2 if is_norm(layer) else 1


def bias_place(layer: fx.Node) -> int | None:
    """The position of a layer's bias among its arguments; None where it has none."""
    place = weight_place(layer) + 1
    is_given = layer.target is not aten.rms_norm.default and isinstance(argument(layer, "bias"), fx.Node)
    return place if is_given else None


def _pair(first: fx.Node) -> Pair | None:
    if not _has_constants(first) or (is_norm(first) and len(argument(first, "normalized_shape")) != 1):
        return None
    axis = 1 if first.target in _CONVOLUTIONS else len(shape(first)) - 1
    path = [first]
    while readers := [user for user in path[-1].users if reads_values(user)]:
        if all(reader.target in _LAYERS for reader in readers):
            takes = all(_takes(reader, path[-1], axis) for reader in readers)
            return Pair(first, tuple(sorted(readers)), tuple(path), axis) if takes else None
        if len(readers) > 1 or readers[0].op != "call_function" or not _keeps_factors(readers[0], path[-1], axis):
            return None
        path.append(readers[0])
    return None


def _has_constants(layer: fx.Node) -> bool:
    weight, place = argument(layer, "weight"), bias_place(layer)
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return False
    return place is None or node_arg(layer, place).op == "get_attr"


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
