"""What one sample takes in a graph: bytes of constants, and bytes of activations alive at once."""

from __future__ import annotations

import re
from collections.abc import Mapping
from math import prod
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.graph import is_unpacked, sample_shape
from fxquant.ops.movement import VIEWS
from fxquant.targets.groups import Group

aten, fxq = torch.ops.aten, torch.ops.fxq

# These give another view of their operand's memory.
_VIEWS = frozenset({*VIEWS, aten.flatten.using_ints})


def shown_shape(value: Tensor) -> tuple[int | str, ...]:
    """The shape with "N" (or "4*N") for what depends on a free batch."""
    return tuple(n if isinstance(n, int) else _symbolic(n) for n in value.shape)


def value_bytes(node: fx.Node) -> int:
    """Bytes of one sample of the node's value; 0 if it is no tensor."""
    value = node.meta.get("val")
    return prod(sample_shape(value)) * value.element_size() if isinstance(value, Tensor) else 0


def constant_bytes(module: fx.GraphModule) -> int:
    """Bytes of all constants: weights, biases, multipliers, tables."""
    nodes = {node.target: node for node in module.graph.find_nodes(op="get_attr")}
    return sum(value_bytes(node) for node in nodes.values())


def float_parameter_bytes(module: fx.GraphModule) -> int:
    """What the weights and biases of the graph's products take in float32, and its float constants as they are."""
    found: dict[Any, int] = {}
    for node in module.graph.nodes:
        for constant in _parameters(node):
            found[stored(constant).target] = 4 * prod(sample_shape(constant.meta["val"]))
    for node in module.graph.find_nodes(op="get_attr"):
        if node.meta["val"].dtype.is_floating_point:
            found[node.target] = value_bytes(node)
    return sum(found.values())


def peak_activation_bytes(graph: fx.Graph, found: Mapping[fx.Node, Group]) -> int:
    """The most bytes of values alive at once for one sample, in graph order: inputs and stored values.

    Of a group (`fxquant.targets.groups`) nothing is stored but its last value; views share their operand's memory. A
    target's own plan may need more (borders, alignment) or less (sharing in place).
    """
    order = {node: step for step, node in enumerate(graph.nodes)}
    owner: dict[fx.Node, fx.Node] = {}
    last: dict[fx.Node, int] = {}
    for node in graph.nodes:
        source = node.args[0] if node.target in _VIEWS else None
        owner[node] = owner.get(source, source) if isinstance(source, fx.Node) else node
        last[owner[node]] = max([last.get(owner[node], 0), *(order[user] for user in node.users)])
    changes = [0] * (len(order) + 1)
    for node, end in last.items():
        is_stored = node not in found or node is found[node].last
        if node.op in ("placeholder", "call_function") and is_stored and not is_unpacked(node):
            changes[order[node]] += value_bytes(node)
            changes[end + 1] -= value_bytes(node)
    alive, peak = 0, 0
    for change in changes:
        alive += change
        peak = max(peak, alive)
    return peak


def _symbolic(n: Any) -> str:
    return re.sub("|".join(rf"\b{symbol}\b" for symbol in n.node.expr.free_symbols), "N", str(n.node.expr))


def _parameters(node: fx.Node) -> list[fx.Node]:
    if node.target not in (fxq.conv.default, fxq.conv_transpose.default, fxq.linear.default):
        return []
    return [a for a in node.args[1:3] if isinstance(a, fx.Node)]


def stored(node: fx.Node) -> fx.Node:
    """The constant that a packed one is unpacked from; any other node itself."""
    return node.all_input_nodes[0] if is_unpacked(node) else node
