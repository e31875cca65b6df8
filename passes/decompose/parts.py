"""Values that are taken apart and put together.

split(x, n)[i], unbind(x)[i]   =>   slice(x), select(x)
atleast_3d([x, y])[i]          =>   reshape(x)
lstm(x, ...)[i]                =>   what `recurrent.py` notes
stack([x, y], 1)               =>   cat([unsqueeze(x, 1), unsqueeze(y, 1)], 1)
cat([empty, x])                =>   x
concat([x, y], 1)              =>   cat([x, y], 1)
"""

from __future__ import annotations

import torch
from torch import fx

from fxquant.arguments import int_arg, node_arg, nodes_arg
from fxquant.graph import absorb, call, shape
from fxquant.passes.decompose.shapes import reshaped

aten = torch.ops.aten

_AT_LEAST = (aten.atleast_1d.Sequence, aten.atleast_2d.Sequence, aten.atleast_3d.Sequence)
_SPLITS = (aten.unbind.int, aten.split.Tensor, aten.unsafe_split.Tensor, aten.split_with_sizes.default,
           aten.unsafe_split_with_sizes.default, aten.chunk.default, aten.unsafe_chunk.default)  # fmt: skip


def item(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """One part of several; None where they are no parts of one value."""
    several = node_arg(node, 0)
    if "fxq.parts" in several.meta:
        found: fx.Node | None = several.meta["fxq.parts"][int_arg(node, 1)]
        return found
    if several.target in _AT_LEAST:
        return reshaped(graph, nodes_arg(several, 0)[int_arg(node, 1)], list(shape(node)), node)
    if several.target not in _SPLITS:
        return None
    source, axis = several.args[0], int_arg(several, "dim")
    index = int_arg(node, 1) % len(several.meta["val"])
    if several.target is aten.unbind.int:
        return _part(call(graph, aten.select.int, source, axis, index, like=node), several)
    sizes = [int(part.shape[axis]) for part in several.meta["val"]]
    start = sum(sizes[:index])
    return _part(call(graph, aten.slice.Tensor, source, axis, start, start + sizes[index], like=node), several)


def _part(node: fx.Node, several: fx.Node) -> fx.Node:
    absorb(node, several)
    return node


def joined(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A part without elements adds nothing, as the cache of a decoder before its first step."""
    parts, axis = nodes_arg(node, "tensors"), int_arg(node, "dim")
    kept = [part for part in parts if shape(part)[axis if len(shape(part)) == len(shape(node)) else 0] != 0]
    if not kept or len(kept) == len(parts):
        return None
    return kept[0] if len(kept) == 1 else call(graph, aten.cat.default, kept, axis, like=node)


def concatenated(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """Another name of the same."""
    same = call(graph, aten.cat.default, nodes_arg(node, "tensors"), int_arg(node, "dim"), like=node)
    return joined(graph, same) or same


def stacked(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """Parts get the new axis one by one."""
    axis = int_arg(node, "dim") % len(shape(node))
    parts = [call(graph, aten.unsqueeze.default, part, axis, like=node) for part in nodes_arg(node, "tensors")]
    return call(graph, aten.cat.default, parts, axis, like=node)
