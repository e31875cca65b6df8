"""Small verbs for editing a `torch.fx` graph: constants, shapes of new nodes, dumps."""

from __future__ import annotations

import html
import re
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx
from torch._dispatch.python import enable_python_dispatcher
from torch._subclasses.fake_tensor import FakeTensor, FakeTensorMode

from fxquant.arguments import callee, settle
from fxquant.errors import ArgumentError
from fxquant.history import inherit_passes
from fxquant.names import absorb_layers, inherit_name
from fxquant.source import describe, name_of, target_name

# Facts about a node that must follow the value when a pass replaces the node.
PROVENANCE = ("stack_trace", "nn_module_stack", "from_node", "source_fn_stack")


class FxquantGraph(fx.GraphModule):
    """A graph at one of the stages: an ordinary GraphModule that print() and notebooks show as `text` does."""

    def __init__(self, root: torch.nn.Module | dict[str, Any], graph: fx.Graph) -> None:
        super().__init__(root, graph, class_name="FxquantGraph")

    def __str__(self) -> str:
        """The stage and the batch, then the nodes."""
        stage, batch = str(self.meta.get("fxq.stage", "no")).upper(), self.meta.get("fxq.batch", "not recorded")
        return f"# {stage} graph, batch: {batch}\n{text(self)}"

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(str(self))}</pre>"


def shape(node: fx.Node) -> tuple[Any, ...]:
    """Shape of the node's value; the batch axis may be symbolic."""
    return tuple(node.meta["val"].shape)


def is_unpacked(node: fx.Node) -> bool:
    """Whether the value is a constant of fewer than 8 bits, of the packed one that is its operand."""
    return node.op == "call_function" and str(node.target) == "fxq.unpack.default"


def sample_shape(value: Tensor) -> tuple[int, ...]:
    """The shape for one sample: a free batch counts as 1."""
    return tuple(size(n) for n in value.shape)


def size(n: Any) -> int:
    """A size for one sample: a free batch counts as 1."""
    if isinstance(n, int):
        return n
    expression = n.node.expr
    return int(expression.subs(dict.fromkeys(expression.free_symbols, 1)))


def constant_bits(node: fx.Node) -> int:
    """The bits that each number of a constant of bytes takes where it is stored."""
    return int(node.args[1]) if is_unpacked(node) else 8  # type: ignore[arg-type]


def constant_value(module: fx.GraphModule, node: fx.Node) -> Tensor:
    """The tensor behind a get_attr node, detached, or what a packed one stands for."""
    if is_unpacked(node):
        found_packed: Tensor = compute(node, lambda operand: constant_value(module, operand))
        return found_packed
    found = attrgetter(str(node.target))(module) if node.op == "get_attr" else None
    if not isinstance(found, Tensor):
        raise ArgumentError(f"{describe(node)} is not a constant tensor")
    return found.detach()


def is_constant(node: fx.Node) -> bool:
    """Whether the value depends on constants only, so that FoldConstants will compute it."""
    waiting, seen = [node], {node}
    while waiting:
        found = waiting.pop()
        if found.op not in ("get_attr", "call_function"):
            return False
        waiting.extend(n for n in found.all_input_nodes if n not in seen)
        seen.update(found.all_input_nodes)
    return True


def add_constant(module: fx.GraphModule, tensor: Tensor, name: str) -> fx.Node:
    """Store `tensor` as a buffer and return its get_attr node, placed at the current insertion point."""
    base = re.sub(r"\W", "_", name)
    unique, count = base, 0
    while hasattr(module, unique):
        count += 1
        unique = f"{base}_{count}"
    module.register_buffer(unique, tensor)
    node = module.graph.get_attr(unique)
    mode = fake_mode(module.graph)
    node.meta["val"] = mode.from_tensor(tensor, static_shapes=True) if mode else tensor
    return node


def fake_mode(graph: fx.Graph) -> FakeTensorMode | None:
    """The mode that the graph's fake values live in, if there is one."""
    for node in graph.nodes:
        if isinstance(node.meta.get("val"), FakeTensor):
            mode: FakeTensorMode = node.meta["val"].fake_mode
            return mode
    return None


def call(
    graph: fx.Graph, target: Callable[..., Any], *args: Any, like: fx.Node | None = None, **kwargs: Any
) -> fx.Node:
    """Add a call at the current insertion point, with its shape, and with the provenance of `like`."""
    node = graph.call_function(target, args, kwargs)
    settle(node)
    infer(node)
    if like is not None:
        inherit(node, like)
    return node


def infer(node: fx.Node) -> None:
    """Compute the fake value of a call from its arguments' values.

    By torch's decompositions in Python, as an export does: those in C++ take a free batch for the example's.
    """
    with fake_mode(node.graph) or nullcontext(), torch.no_grad(), enable_python_dispatcher():
        node.meta["val"] = compute(node, lambda operand: operand.meta["val"])


def compute(node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
    """What a call gives, `value` giving the values of its operands."""
    args, kwargs = fx.map_arg(node.args, value), fx.map_arg(node.kwargs, value)
    return callee(node)(*args, **kwargs)


def locate(node: fx.Node, origin: fx.Node) -> None:
    """Copy where a value comes from; a node that already knows keeps it."""
    for key in PROVENANCE:
        if key in origin.meta and key not in node.meta:
            node.meta[key] = origin.meta[key]


def inherit(node: fx.Node, origin: fx.Node) -> None:
    """Copy where a value comes from, and what it is called; a node that already knows keeps it."""
    locate(node, origin)
    inherit_name(node, origin)
    inherit_passes(node, origin)


def absorb(node: fx.Node, *others: fx.Node) -> None:
    """Note that `node` computes what `others` did as well, which are about to be dropped."""
    absorb_layers(node, *others)
    inherit_passes(node, *others)


def replace(node: fx.Node, new: fx.Node) -> None:
    """Put `new` in the place of `node`; where it was made for that, under the id that it had."""
    node.replace_all_uses_with(new)
    node.graph.erase_node(node)
    if name_of(new) == name_of(node):
        new.name = node.name


def placeholders(graph: fx.Graph) -> list[fx.Node]:
    """Inputs in order."""
    return [node for node in graph.nodes if node.op == "placeholder"]


def outputs(graph: fx.Graph) -> list[fx.Node]:
    """Returned values in order, flat."""
    returned = graph.output_node().args[0]
    several = returned if isinstance(returned, (list, tuple)) else [returned]
    return [n for n in several if isinstance(n, fx.Node)]


def calls(graph: fx.Graph, *targets: Any) -> Iterator[fx.Node]:
    """Calls of any of `targets`, over a snapshot so that the graph may be edited meanwhile."""
    for node in list(graph.nodes):
        if node.op == "call_function" and node.target in targets:
            yield node


def is_float(node: fx.Node) -> bool:
    """Whether the node's value is a floating-point tensor."""
    val = node.meta.get("val")
    return isinstance(val, Tensor) and val.dtype.is_floating_point


def reads_values(user: fx.Node) -> bool:
    """Whether a node reads its operands' elements, not just their sizes."""
    return user.target is not torch.ops.aten.sym_size.int


def clean(module: fx.GraphModule) -> fx.GraphModule:
    """Drop dead nodes and the buffers, parameters and observers that nothing reads any more; recompile."""
    # Nobody misses a random number, and recurrent layers count as random: they have a dropout, which is off.
    module.graph.eliminate_dead_code(lambda node: node.is_impure(impure_random=False))
    used = {str(n.target) for n in module.graph.nodes if n.op in ("get_attr", "call_module")}
    for name, _ in [*module.named_parameters(), *module.named_buffers()]:
        if name not in used and not any(name.startswith(f"{u}.") for u in used):
            _delete(module, name)
    module.delete_all_unused_submodules()
    module.recompile()
    return module


def _delete(module: torch.nn.Module, name: str) -> None:
    path, _, leaf = name.rpartition(".")
    delattr(module.get_submodule(path), leaf)


def text(module: fx.GraphModule, *, named: bool = False) -> str:
    """The graph as lines `%id = op(args) : dtype[shape]`: what golden tests show; if `named`, with layers' names."""
    lines = [(_line(node), name_of(node)) for node in module.graph.nodes]
    width = min(60, max(len(line) for line, _ in lines))
    return "\n".join(f"{line:{width}}  # {name}" if named and "%" in line[:1] else line for line, name in lines)


def _line(node: fx.Node) -> str:
    if node.op == "output":
        return f"return {_argument(node.args[0])}"
    val = node.meta.get("val")
    kind = ""
    if isinstance(val, Tensor):
        sizes = ",".join("N" if isinstance(s, torch.SymInt) else str(s) for s in val.shape)
        kind = f" : {str(val.dtype).removeprefix('torch.')}[{sizes}]"
    if node.op in ("placeholder", "get_attr"):
        return f"%{node.name} = {node.op} {node.target}{kind}"
    args = [_argument(a) for a in node.args] + [f"{k}={_argument(v)}" for k, v in node.kwargs.items()]
    name = f"observe[{node.target}]" if node.op == "call_module" else target_name(node)
    return f"%{node.name} = {name}({', '.join(args)}){kind}"


def _argument(arg: Any) -> str:
    if isinstance(arg, fx.Node):
        return f"%{arg.name}"
    if isinstance(arg, (list, tuple)):
        return "[" + ", ".join(_argument(a) for a in arg) + "]"
    return f"{arg:.6g}" if isinstance(arg, float) else str(arg)
