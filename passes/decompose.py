"""Rewrite composite operators as the few that the op table knows.

scaled_dot_product_attention(q, k, v)   =>   matmul(softmax(matmul(q, k^T) * scale + mask), v)
split(x, n)[i], unbind(x)[i]            =>   slice(x), select(x)
addmm(b, x, w), addmv ...               =>   linear(x, w^T, b)
view(x, [batch, 8]), flatten(x, 1)      =>   reshape(x, [-1, 8])
conv2d(x, w, b, padding="same")         =>   conv2d(pad(x), w, b), the padding in the convolution where it can be
channel_shuffle(x, 2), pixel_shuffle    =>   reshape(permute(reshape(x)))
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxquant.arguments import arguments, int_arg, node_arg
from fxquant.graph import absorb, call, calls, clean, replace
from fxquant.passmanager import Pass

aten = torch.ops.aten

Rewrite = Callable[[fx.Graph, fx.Node], fx.Node | None]


@dataclass(frozen=True)
class Decompose(Pass):
    """Rewrite composite operators as the few that the op table knows."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Each rewrite gives the node's replacement, or None where it does not apply."""
        for node in calls(module.graph, *_REWRITES):
            with module.graph.inserting_before(node):
                replacement = _REWRITES[node.target](module.graph, node)
            if replacement is not None:
                replace(node, replacement)
        return clean(module)


def _attention(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    q, k, v, mask, dropout, causal = arguments(node, None, None, None, None, 0.0, False)[:6]
    if causal or dropout or node.kwargs.get("enable_gqa") or not isinstance(q, fx.Node):
        return None
    scale = node.kwargs.get("scale") or 1.0 / math.sqrt(int(q.meta["val"].shape[-1]))
    transposed = call(graph, aten.transpose.int, k, -2, -1, like=node)
    scores = call(graph, aten.matmul.default, q, transposed, like=node)
    scores = call(graph, aten.mul.Tensor, scores, scale, like=node)
    if mask is not None:
        scores = call(graph, aten.add.Tensor, scores, mask, like=node)
    weights = call(graph, aten.softmax.int, scores, -1, like=node)
    return call(graph, aten.matmul.default, weights, v, like=node)


def _item(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    several = node_arg(node, 0)
    if several.target not in _AXIS:
        return None
    source, axis, index = several.args[0], int_arg(several, _AXIS[several.target], 0), int_arg(node, 1)
    if several.target is aten.unbind.int:
        return _part(call(graph, aten.select.int, source, axis, index, like=node), several)
    sizes = [int(part.shape[axis]) for part in several.meta["val"]]
    start = sum(sizes[:index])
    return _part(call(graph, aten.slice.Tensor, source, axis, start, start + sizes[index], like=node), several)


def _part(node: fx.Node, several: fx.Node) -> fx.Node:
    absorb(node, several)
    return node


# Which argument is the axis.
_AXIS: dict[Any, int] = {
    aten.unbind.int: 1,
    aten.split.Tensor: 2,
    aten.split_with_sizes.default: 2,
    aten.chunk.default: 2,
}


def _addmm(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    bias, x, w = node.args[:3]
    if node.kwargs.get("alpha", 1) != 1 or node.kwargs.get("beta", 1) != 1:
        return None
    return call(graph, aten.linear.default, x, call(graph, aten.transpose.int, w, 0, 1, like=node), bias, like=node)


def _view(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A size computed from the batch becomes -1, so that no shape arithmetic is left in the graph."""
    source, sizes = arguments(node)
    free = [i for i, size in enumerate(sizes) if isinstance(size, fx.Node)]
    if len(free) > 1:
        return None
    # The others as they came out: a -1 among them would be one too many.
    result = node.meta["val"].shape if free else sizes
    fixed = [-1 if i in free else int(size) for i, size in enumerate(result)]
    return call(graph, aten.reshape.default, source, fixed, like=node)


def _flatten(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    sizes = [-1 if isinstance(n, torch.SymInt) else int(n) for n in node.meta["val"].shape]
    return call(graph, aten.reshape.default, node.args[0], sizes, like=node) if sizes.count(-1) <= 1 else None


def _batch_size(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """The batch is asked of an input, so that no later value is kept alive for its size."""
    for source in graph.find_nodes(op="placeholder"):
        sizes = source.meta["val"].shape
        if source is node.args[0] or not len(sizes) or str(sizes[0]) != str(node.meta["val"]):
            continue
        with graph.inserting_after(source):
            return call(graph, aten.sym_size.int, source, 0, like=node)
    return None


def _padding_in_words(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """ "valid" is none at all; "same" is the reach of the kernel, an odd one with its larger half after the image."""
    x, weight, bias, stride, padding, dilation, groups = arguments(node, None, None, None, 1, "valid", 1, 1)
    kernel = [int(n) for n in weight.meta["val"].shape[2:]]
    strides, steps = ([v] * len(kernel) if isinstance(v, int) else list(v) for v in (stride, dilation))
    reach = [(n - 1) * d if padding == "same" else 0 for n, d in zip(kernel, steps, strict=True)]
    before = [r // 2 for r in reach]
    if any(r % 2 for r in reach):
        widths = [w for r in reversed(reach) for w in (0, r % 2)]
        x = call(graph, aten.constant_pad_nd.default, x, widths, like=node)
    target = aten.conv1d.default if len(kernel) == 1 else aten.conv2d.default
    return call(graph, target, x, weight, bias, strides, before, steps, groups, like=node)


def _channel_shuffle(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    source, groups = node_arg(node, 0), int_arg(node, 1)
    channels, *rest = (int(n) for n in source.meta["val"].shape[1:])
    return _shuffled(graph, node, [groups, channels // groups, *rest], [1, 0, *range(2, 2 + len(rest))])


def _pixel_shuffle(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    if len(node.meta["val"].shape) != 4:
        return None
    factor = int_arg(node, 1)
    channels, height, width = (int(n) for n in node.meta["val"].shape[1:])
    split = [channels, factor, factor, height // factor, width // factor]
    return _shuffled(graph, node, split, [0, 3, 1, 4, 2])


def _pixel_unshuffle(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
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


_REWRITES: dict[Any, Rewrite] = {
    aten.conv1d.padding: _padding_in_words,
    aten.conv2d.padding: _padding_in_words,
    aten.channel_shuffle.default: _channel_shuffle,
    aten.pixel_shuffle.default: _pixel_shuffle,
    aten.pixel_unshuffle.default: _pixel_unshuffle,
    aten.sym_size.int: _batch_size,
    aten.flatten.using_ints: _flatten,
    aten.scaled_dot_product_attention.default: _attention,
    operator.getitem: _item,
    aten.addmm.default: _addmm,
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.reshape.default: _view,
}
