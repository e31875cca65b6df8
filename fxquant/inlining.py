"""Regions of an exported graph that change nothing are written out where they stand.

    %y = wrap_with_autocast(cpu, bfloat16, False, ..., %region, %x)   =>   %r = relu(%x)      # the region's own calls

Exporters wrap what a model runs under `torch.autocast` or with gradients switched. Gradients do not matter here, and
neither does an autocast that is off; one that is on would compute in another dtype, and is refused.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from fxquant.arguments import node_arg
from fxquant.errors import TraceError
from fxquant.source import describe

_AUTOCAST = torch.ops.higher_order.wrap_with_autocast
_GRADIENTS = torch.ops.higher_order.wrap_with_set_grad_enabled
# Where the region stands among the arguments; its operands follow.
_REGION = {_AUTOCAST: 4, _GRADIENTS: 1}


def inline(exported: ExportedProgram) -> ExportedProgram:
    """Write such regions out, in place. Raises TraceError for an autocast that is on."""
    _inline(exported.graph_module, exported.graph_signature.replace_all_uses)
    return exported


def _inline(module: fx.GraphModule, renamed: Callable[[str, str], None]) -> None:
    for node in list(module.graph.nodes):
        if node.op != "call_function" or node.target not in _REGION:
            continue
        place = _REGION[node.target]
        region = node_arg(node, place)
        inner: Any = module.get_submodule(str(region.target))
        if node.target is _AUTOCAST and node.args[2]:
            first = next(n for n in inner.graph.nodes if n.op == "call_function")
            raise TraceError(
                f"torch.autocast computes {describe(first)} in {node.args[1]}: quantization starts from float32; take "
                "the autocast out of the model, or switch it off with enabled=False"
            )
        _inline(inner, lambda old, new: None)
        with module.graph.inserting_before(node):
            results = _copied(module.graph, inner.graph, node.args[place + 1 :])
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
