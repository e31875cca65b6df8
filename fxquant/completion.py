"""What a pass of the user's leaves open is found for it: shapes of new nodes, and where in the model they come from.

    %h = torch.clamp(%x, 0, 6)   =>   %h = aten.clamp(%x, 0, 6) : float32[N,8,6,6], with the line of what it replaces

So `torch.fx.replace_pattern`, `Transformer` and `graph.call_function` work in passes as they do elsewhere. What cannot
be computed is blamed on the pass that made it.
"""

from __future__ import annotations

from contextlib import nullcontext
from dataclasses import dataclass, field
from operator import getitem
from typing import Any

import torch
from torch import Tensor, fx
from torch.fx.experimental.proxy_tensor import make_fx

from fxquant.errors import PassError
from fxquant.graph import add_constant, fake_mode, infer, inherit, locate, placeholders
from fxquant.names import NAME, is_conversion, name_added
from fxquant.observers.base import Observer
from fxquant.source import describe


@dataclass(frozen=True)
class Before:
    """A graph as a pass got it: what its inputs are, how every node was called, and the mode of its fake values."""

    inputs: dict[str, Any]
    calls: dict[fx.Node, tuple[Any, ...]]
    meta: dict[str, Any]
    mode: Any = field(repr=False, default=None)


def snapshot(module: fx.GraphModule) -> Before:
    """What `complete` must know of the graph before the pass runs."""
    inputs = {str(node.target): node.meta["val"] for node in placeholders(module.graph)}
    return Before(inputs, {n: _call(n) for n in module.graph.nodes}, dict(module.meta), fake_mode(module.graph))


def complete(module: fx.GraphModule, before: Before, name: str) -> None:
    """Find shapes and origins of what the pass `name` made or gave other operands, and shapes of all that follows.

    Raises PassError for a node that cannot be computed, and for an input that the graph did not have before.
    """
    module.meta = {**before.meta, **module.meta}
    _inherit(module.graph, before)
    changed: set[fx.Node] = set()
    for node in list(module.graph.nodes):
        is_stale = before.calls.get(node) != _call(node) or bool(changed.intersection(node.all_input_nodes))
        if "val" in node.meta and not is_stale:
            continue
        old = node.meta.get("val")
        node = _found(module, node, before, name)
        if node.op != "output" and not _alike(old, node.meta.get("val")):
            changed.add(node)


def _call(node: fx.Node) -> tuple[Any, ...]:
    return node.op, node.target, node.args, node.kwargs


def _inherit(graph: fx.Graph, before: Before) -> None:
    """New nodes come from where those came from that they replace; else from where users do, or operands.

    They also have the name of what they replace, but where that is still there they are operations of their own.
    """
    fresh = [node for node in graph.nodes if node not in before.calls]
    for node in graph.nodes:
        old, new = _operands(before.calls.get(node, ())), _operands(_call(node))
        for one, other in zip(old, new, strict=True) if len(old) == len(new) else ():
            if other not in before.calls:
                (locate if one.users and not is_conversion(other) else inherit)(other, one)
    for node in reversed(fresh):
        for user in [user for user in node.users if user not in before.calls and "stack_trace" in user.meta]:
            (inherit if NAME in user.meta else locate)(node, user)
    for node in fresh:
        for source in [source for source in node.all_input_nodes if "stack_trace" in source.meta]:
            (inherit if is_conversion(node) else locate)(node, source)
        if NAME not in node.meta and node.op in ("call_function", "call_method") and not is_conversion(node):
            name_added(node)


def _operands(call: tuple[Any, ...]) -> list[fx.Node]:
    found: list[fx.Node] = []
    fx.map_arg(call[2:], found.append)
    return found


def _found(module: fx.GraphModule, node: fx.Node, before: Before, name: str) -> fx.Node:
    """The node with its value; another one in its place where it called something that is made of operators."""
    try:
        if node.op == "placeholder":
            node.meta["val"] = before.inputs[str(node.target)]
        elif node.op == "get_attr":
            tensor = _attribute(module, str(node.target))
            node.meta["val"] = before.mode.from_tensor(tensor, static_shapes=True) if before.mode else tensor
        elif node.op == "call_module":
            node.meta["val"] = _observed(module, node).meta["val"]
        elif node.op == "call_method" or (node.op == "call_function" and not _is_operator(node)):
            return _as_operators(module, node)
        elif node.op == "call_function":
            infer(node)
    except Exception as error:
        operands = ", ".join(f"{a.name} {_kind(a.meta.get('val'))}" for a in node.all_input_nodes) or "nothing"
        raise PassError(
            f"the pass {name} leaves a node that cannot be computed: {describe(node)}\n"
            f"  takes {operands}: {type(error).__name__}: {str(error).strip().splitlines()[0] if str(error) else ''}"
        ) from error
    return node


def _attribute(module: fx.GraphModule, target: str) -> Tensor:
    found: Any = module
    for part in target.split("."):
        found = getattr(found, part)
    if not isinstance(found, Tensor):
        raise TypeError(f"{target} is a {type(found).__name__}, not a tensor")
    return found.detach()


def _observed(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    found = module.get_submodule(str(node.target))
    if not isinstance(found, Observer):
        raise TypeError(f"{type(found).__name__} is a module, not an observer: call functions of torch, with constants")
    return node.all_input_nodes[0]


def _is_operator(node: fx.Node) -> bool:
    """Whether it calls an overload of torch's, or arithmetic of Python on sizes; all else is made of operators."""
    takes_tensors = any(isinstance(a.meta.get("val"), Tensor) for a in node.all_input_nodes)
    return isinstance(node.target, torch._ops.OpOverload) or not takes_tensors or node.target is getitem


def _as_operators(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """torch.relu(%x), a method, or a function of the user's   =>   aten.relu(%x), or whatever it is made of."""
    tensors = [a for a in node.all_input_nodes if isinstance(a.meta.get("val"), Tensor)]

    def computed(*values: Tensor) -> Any:
        found = dict(zip(tensors, values, strict=True))
        args, kwargs = fx.map_arg((node.args, node.kwargs), lambda n: found.get(n, n.meta["val"]))
        function = node.target if callable(node.target) else getattr(type(args[0]), node.target)
        return function(*args, **kwargs)

    with fake_mode(node.graph) or nullcontext(), torch.no_grad():
        made = make_fx(computed, pre_dispatch=True, record_module_stack=False)(*(a.meta["val"] for a in tensors))
    copies = dict(zip(placeholders(made.graph), tensors, strict=True))
    with module.graph.inserting_before(node):
        for each in made.graph.nodes:
            if each.op == "get_attr":
                copies[each] = add_constant(module, getattr(made, str(each.target)), str(each.target))
            elif each.op == "call_function":
                copies[each] = module.graph.node_copy(each, copies.__getitem__)
                inherit(copies[each], node)
    result = copies[made.graph.output_node().args[0]]  # type: ignore[index]
    node.replace_all_uses_with(result)
    module.graph.erase_node(node)
    return result


def _alike(a: Any, b: Any) -> bool:
    """Whether two values have one shape and dtype."""
    return _kind(a) == _kind(b)


def _kind(value: Any) -> str:
    if isinstance(value, (list, tuple)):
        return f"({', '.join(map(_kind, value))})"
    return f"{value.dtype} {list(value.shape)}" if isinstance(value, Tensor) else str(value)
