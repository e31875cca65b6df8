"""Shuffles of channels and pixels.

channel_shuffle(x, 2), pixel_shuffle(x, 2), pixel_unshuffle(x, 2)   =>   reshape(permute(reshape(x)))
"""

from __future__ import annotations

import torch
from torch import fx

from fxquant.arguments import int_arg, node_arg
from fxquant.graph import call

aten = torch.ops.aten


def channel_shuffle(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Channels of the groups are dealt in turn."""
    source, groups = node_arg(node, 0), int_arg(node, 1)
    channels, *rest = (int(n) for n in source.meta["val"].shape[1:])
    return _shuffled(graph, node, [groups, channels // groups, *rest], [1, 0, *range(2, 2 + len(rest))])


def pixel_shuffle(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Channels become pixels; None for what is no batch of images."""
    if len(node.meta["val"].shape) != 4:
        return None
    factor = int_arg(node, 1)
    channels, height, width = (int(n) for n in node.meta["val"].shape[1:])
    split = [channels, factor, factor, height // factor, width // factor]
    return _shuffled(graph, node, split, [0, 3, 1, 4, 2])


def pixel_unshuffle(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Pixels become channels; None for what is no batch of images."""
    if len(node.meta["val"].shape) != 4:
        return None
    factor = int_arg(node, 1)
    channels, height, width = (int(n) for n in node.meta["val"].shape[1:])
    split = [channels // factor**2, height, factor, width, factor]
    return _shuffled(graph, node, split, [0, 2, 4, 1, 3])


def _shuffled(graph: fx.Graph, node: fx.Node, split: list[int], order: list[int]) -> fx.Node:
    """All axes but the batch split, permuted, and merged into the shape of the result."""
    apart = call(graph, aten.reshape.default, node_arg(node, 0), [-1, *split], like=node)
    moved = call(graph, aten.permute.default, apart, [0, *(axis + 1 for axis in order)], like=node)
    merged = [-1, *(int(n) for n in node.meta["val"].shape[1:])]
    return call(graph, aten.reshape.default, moved, merged, like=node)
