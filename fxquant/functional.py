"""In-place operations out of an exported graph, without a second trace where that is safe.

    %r = aten.relu_(%x); %y = aten.add(%x, 1)   =>   %r = aten.relu(%x); %y = aten.add(%r, 1)

`ExportedProgram.run_decompositions` does this for any program, by tracing it once more, which takes longer than the
export itself. Most networks only write in place what nobody else sees; for those a renaming is enough.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch.export import ExportedProgram

from fxquant.arguments import node_arg
from fxquant.ops.table import TABLE

aten = torch.ops.aten

# Composite operators that passes know how to rewrite; any other is left to torch's own decompositions.
_KNOWN = frozenset(
    {
        aten.batch_norm.default,
        aten.dropout.default,
        aten.dropout_.default,
        aten.clone.default,
        aten.contiguous.default,
        aten.flatten.using_ints,
        aten.group_norm.default,
        aten.instance_norm.default,
        aten.log_softmax.int,
        aten.rrelu.default,
        aten.chunk.default,
        aten.split.Tensor,
        aten.split_with_sizes.default,
        aten.unbind.int,
        aten.scaled_dot_product_attention.default,
        aten.sym_size.int,
    }
)
# Assertions, which an export leaves among the operations.
CHECKS = (aten._assert_tensor_metadata.default, aten._assert_async.msg, aten._assert_scalar.default)


def functional(exported: ExportedProgram) -> ExportedProgram:
    """The program without in-place operations, assertions or unknown composite operators."""
    graph = exported.graph
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in CHECKS:
            graph.erase_node(node)
    renamed = {node: _functional_target(node.target) for node in graph.nodes if _writes(node)}
    if all(_safe(node, target) for node, target in renamed.items()) and all(_is_known(n, renamed) for n in graph.nodes):
        for node, target in renamed.items():
            _rename(node, target)
        return exported
    decomposed: ExportedProgram = exported.run_decompositions({})
    return decomposed


def _writes(node: fx.Node) -> bool:
    return isinstance(node.target, torch._ops.OpOverload) and node.target._schema.is_mutable


def _functional_target(overload: torch._ops.OpOverload) -> Any:
    """The overload that does the same out of place, or None."""
    name = overload._schema.name.removeprefix("aten::").removesuffix("_")
    packet = getattr(aten, name, None)
    return getattr(packet, overload._overloadname, None) if packet is not None else None


# These may give a view of their operand although their schema does not say so.
_SOMETIMES_VIEWS = frozenset(
    {aten.reshape.default, aten.contiguous.default, aten.flatten.using_ints, aten.dropout.default}
)


def _is_view(node: fx.Node) -> bool:
    if not isinstance(node.target, torch._ops.OpOverload):
        # One of several results, of a split for one, is a view where these are.
        return any(_is_view(source) for source in node.all_input_nodes)
    return node.target in _SOMETIMES_VIEWS or any(r.alias_info is not None for r in node.target._schema.returns)


def _safe(node: fx.Node, target: Any) -> bool:
    """Whether nothing but the later readers of the operand itself can see the write."""
    source = node.args[0] if node.args else None
    if target is None or not isinstance(source, fx.Node) or source.op != "call_function":
        return False
    if _is_view(source) and not _writes(source):
        return False
    return not any(_is_view(user) and user is not node for user in source.users)


def _is_known(node: fx.Node, renamed: dict[fx.Node, Any]) -> bool:
    if node.op != "call_function" or not isinstance(node.target, torch._ops.OpOverload):
        return True
    target = renamed.get(node, node.target)
    return target in TABLE or target in _KNOWN or not target._can_decompose()


def _rename(node: fx.Node, target: Any) -> None:
    source = node_arg(node, 0)
    node.target = target
    order = {n: i for i, n in enumerate(node.graph.nodes)}
    source.replace_all_uses_with(node, delete_user_cb=lambda user: order[user] > order[node])
