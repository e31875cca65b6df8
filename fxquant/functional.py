"""In-place operations out of an exported graph, without a second trace where that is safe.

    %r = aten.relu_(%x); %y = aten.add(%x, 1)   =>   %r = aten.relu(%x); %y = aten.add(%r, 1)

`ExportedProgram.run_decompositions` does this for any program, by tracing it once more, which takes longer than the
export itself. Most networks only write in place what nobody else sees; for those a renaming is enough.

    %y = aten.einsum("bnd,de->bne", [%x, %w])   =>   %y = view(bmm(view(permute(%x)), view(%w)))

Composite operators that nobody knows are taken apart in the same trace, where that gives operators that are known.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.export import ExportedProgram
from torch.utils._python_dispatch import TorchDispatchMode

from fxquant.arguments import callee, node_arg
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
        aten.conv3d.default,
        aten.conv3d.padding,
        aten.max_pool3d.default,
        aten.adaptive_avg_pool3d.default,
        aten.upsample_nearest3d.vec,
        aten._upsample_nearest_exact1d.vec,
        aten._upsample_nearest_exact2d.vec,
        aten._upsample_nearest_exact3d.vec,
        aten.tile.default,
    }
)
# What composite operators are made of that passes know besides.
_PARTS = frozenset(
    {
        aten.mm.default,
        aten.addmm.default,
        aten.t.default,
        aten.split.Tensor,
        aten.unsafe_split.Tensor,
        aten.stack.default,
        aten._unsafe_view.default,
        aten.alias.default,
        aten.detach.default,
        aten.as_strided.default,
        aten.scalar_tensor.default,
        aten.zeros.default,
    }
)
# Their code would grow with the sequence.
_LOOPS = frozenset({aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input})
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
    decomposed: ExportedProgram = exported.run_decompositions(_decompositions(graph, renamed))
    return decomposed


def _decompositions(graph: fx.Graph, renamed: dict[fx.Node, Any]) -> dict[Any, Any]:
    """Those of unknown composite operators that are made of known ones alone; the others stay whole."""
    parts: dict[Any, bool] = {}
    for node in graph.nodes:
        if not _is_known(node, renamed) and node not in renamed and node.target not in _LOOPS:
            parts[node.target] = parts.get(node.target, True) and _is_made_of_known(node)
    if not any(parts.values()):
        return {}
    table: Any = torch.export.default_decompositions()
    return {target: table[target] for target, made in parts.items() if made and target in table}


def _is_made_of_known(node: fx.Node) -> bool:
    """Whether passes know all that a composite operator calls; found by calling it without data."""
    calls: list[Any] = []

    class Listener(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            # The trace writes nothing in place.
            calls.append(_functional_target(func) if func._schema.is_mutable else func)
            return func(*args, **(kwargs or {}))

    with FakeTensorMode(), torch.no_grad():
        args, kwargs = fx.map_arg(node.args, _example), fx.map_arg(node.kwargs, _example)
        try:
            with Listener():  # type: ignore[no-untyped-call]
                callee(node)(*args, **kwargs)
        except (RuntimeError, ValueError, NotImplementedError):
            return False
    found = [target for target in calls if target is not torch.ops.prim.device.default]
    return all(target in TABLE or target in _KNOWN or target in _PARTS for target in found)


def _example(node: fx.Node) -> Any:
    """A value without data, of the sizes that the exporter saw."""
    value = node.meta["val"]
    if isinstance(value, torch.Tensor):
        return torch.empty([_size(n) for n in value.shape], dtype=value.dtype)
    return _size(value)


def _size(value: Any) -> Any:
    return value.node.hint if isinstance(value, torch.SymInt) else value


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
