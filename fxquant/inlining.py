"""Regions of an exported graph are written out where they stand.

    %y = wrap_with_autocast(cpu, bfloat16, True, ..., %region, %x)   =>   %r = relu(%x)      # the region's own calls

Exporters wrap what a model runs under `torch.autocast` or with gradients switched. Gradients do not matter here, and
neither does an autocast that is off. One that is on saves time by computing in fewer bits: quantization does so better
when it starts from float32, in which the region is computed, and that is told.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from fxquant.arguments import node_arg
from fxquant.errors import TraceError
from fxquant.functional import CHECKS
from fxquant.graph import infer
from fxquant.source import describe

_AUTOCAST = torch.ops.higher_order.wrap_with_autocast
_GRADIENTS = torch.ops.higher_order.wrap_with_set_grad_enabled
# Where the region stands among the arguments; its operands follow.
_REGION = {_AUTOCAST: 4, _GRADIENTS: 1}


def inline(exported: ExportedProgram) -> ExportedProgram:
    """Write such regions out, in place. Raises TraceError where what an autocast computes is none without it."""
    reduced: list[tuple[fx.Node, Any]] = []
    _inline(exported.graph_module, exported.graph_signature.replace_all_uses, reduced)
    if reduced:
        _compute_in_float32(exported.graph, *reduced[0])
    return exported


def _compute_in_float32(graph: fx.Graph, first: fx.Node, dtype: Any) -> None:
    """Types without autocast, for all that comes after the first call in it."""
    what = f"torch.autocast computes {describe(first)} in {dtype}"
    warnings.warn(f"{what}: it is computed in float32, from which quantization starts", stacklevel=6)
    nodes = list(graph.nodes)
    for node in nodes[nodes.index(first) :]:
        if node.op != "call_function" or node.target in CHECKS:
            continue
        try:
            infer(node)
        except Exception as error:  # whatever torch says of types that do not go together
            raise TraceError(
                f"{what}; quantization starts from float32, in which {describe(node)} fails "
                f"({str(error).splitlines()[0]}): take the autocast out of the model, or switch it off by enabled=False"
            ) from error


def _inline(module: fx.GraphModule, renamed: Callable[[str, str], None], reduced: list[tuple[fx.Node, Any]]) -> None:
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in _REGION:
            continue
        place = _REGION[node.target]
        region = node_arg(node, place)
        inner: Any = module.get_submodule(str(region.target))
        _inline(inner, lambda old, new: None, reduced)
        before = node.prev
        with module.graph.inserting_before(node):
            results = _copied(module.graph, inner.graph, node.args[place + 1 :])
        if node.target is _AUTOCAST and node.args[2] and before.next is not node:
            reduced.append((before.next, node.args[1]))
        for item in list(node.users):
            result = results[item.args[1]]
            item.replace_all_uses_with(result)
            renamed(item.name, result.name)
            module.graph.erase_node(item)
        module.graph.erase_node(node)
        if not region.users:
            module.graph.erase_node(region)


def _copied(graph: fx.Graph, inner: fx.Graph, operands: tuple[Any, ...]) -> Any:
    """The calls of `inner` in `graph`, and what they return."""
    values: dict[fx.Node, Any] = dict(zip(inner.find_nodes(op="placeholder"), operands, strict=True))
    for node in inner.nodes:
        if node.op not in ("placeholder", "output"):
            values[node] = graph.node_copy(node, values.__getitem__)
    return fx.map_arg(inner.output_node().args[0], values.__getitem__)
