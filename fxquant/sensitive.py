"""Layers whose weights lose most with few bits: they keep 8 unless a rule of the recipe asks for fewer.

The first layers see the input as it is, and errors of the last ones are the output's; together they are a small part of
a network's weights. A depthwise channel has no more than a handful of weights, whose errors do not average out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable

import torch
from torch import fx

from fxquant.arguments import argument, node_arg
from fxquant.graph import shape
from fxquant.ops.table import lookup

# A weight of so many bits, or fewer, is packed, and asked for with care.
FEW = 4

Neighbours = Callable[[fx.Node], Iterable[fx.Node]]


def sensitive(graph: fx.Graph) -> dict[fx.Node, str]:
    """Which operations of a FLOAT graph have sensitive weights, and why."""
    weighted = [node for node in graph.nodes if _has_weights(node)]
    behind = _reached(graph.nodes, set(weighted), lambda node: node.all_input_nodes)
    before = _reached(reversed(graph.nodes), set(weighted), lambda node: list(node.users))
    found: dict[fx.Node, str] = {}
    for node in weighted:
        if node not in behind:
            found[node] = "a first layer"
        elif node not in before:
            found[node] = "a last layer"
        elif is_depthwise(node):
            found[node] = "depthwise"
    return found


def _has_weights(node: fx.Node) -> bool:
    record = lookup(node) if node.op == "call_function" else None
    if record is None:
        return False
    table = node.target is torch.ops.aten.embedding.default and node_arg(node, "weight").op == "get_attr"
    return table or record.weight is not None


def _reached(nodes: Iterable[fx.Node], sources: set[fx.Node], neighbours: Neighbours) -> set[fx.Node]:
    """The nodes that have one of `sources` among those that they are computed of, in the order of `nodes`."""
    found: set[fx.Node] = set()
    for node in nodes:
        if any(other in sources or other in found for other in neighbours(node)):
            found.add(node)
    return found


def is_depthwise(node: fx.Node) -> bool:
    """Whether a product sums up one channel for each of its results."""
    if "groups" not in [a.name for a in node.target._schema.arguments]:  # type: ignore[union-attr]
        return False
    groups = argument(node, "groups")
    return isinstance(groups, int) and groups > 1 and groups == shape(node_arg(node, 0))[1]
