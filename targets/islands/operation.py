"""One float operation of a graph by itself: what it computes, and the plain program that compiles to that.

    %v = getitem(topk(%x, 5, 1), 0)   =>   def program(x): ... return (v,)

A program has tensors alone as inputs, nothing is written in place, and its operators are the core ones of ATen or such
that `spellings` gives in their place.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx
from torch._decomp import core_aten_decompositions
from torch.export import ExportedProgram
from torch.export.exported_program import ModuleCallEntry, ModuleCallSignature
from torch.export.graph_signature import (
    ExportGraphSignature,
    InputKind,
    InputSpec,
    OutputKind,
    OutputSpec,
    TensorArgument,
)
from torch.func import functionalize
from torch.fx.experimental.proxy_tensor import make_fx
from torch.utils._pytree import tree_flatten, tree_leaves

from fxquant.errors import LoweringError
from fxquant.graph import compute, outputs
from fxquant.targets.islands.spellings import SPELLINGS, TORCHS_OWN, WITHOUT_DECOMPOSITION

# What islands may compute in; TVM's code generator crashes over some of the others.
TYPES = {
    torch.float32, torch.float64, torch.bool, torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64
}  # fmt: skip


@dataclass(frozen=True)
class Operation:
    """A call of a graph. `sources` are its tensor operands, `numbers` what its other operands are.

    `picks` are those of several results that somebody reads; of a call with one result there is only 0.
    """

    node: fx.Node
    sources: tuple[fx.Node, ...]
    numbers: Mapping[fx.Node, Any] = field(default_factory=dict)
    picks: tuple[int, ...] = (0,)

    def __call__(self, *inputs: Tensor) -> tuple[Tensor, ...]:
        """The results that are picked."""
        given = {**self.numbers, **dict(zip(self.sources, inputs, strict=True))}
        found = compute(self.node, given.__getitem__)
        return (found,) if isinstance(found, Tensor) else tuple(found[i] for i in self.picks)

    @property
    def name(self) -> str:
        """'topk', 'conv2d', ...: the operator without its overload."""
        return str(getattr(self.node.target, "_overloadpacket", self.node.target)).split(".")[-1]

    def text(self) -> str:
        """All that decides what it computes, but for its operands' shapes: equal for equal operations."""
        place = {node: f"%{i}" for i, node in enumerate(self.sources)}

        def shown(operand: fx.Node) -> Any:
            return place.get(operand, self.numbers.get(operand))

        arguments = fx.map_arg((self.node.args, self.node.kwargs), shown)
        return f"{self.node.target}{arguments}{self.picks}"


def program_of(operation: Callable[..., tuple[Tensor, ...]], examples: Sequence[Tensor]) -> ExportedProgram:
    """The plain program of `operation`; of the examples only shapes and types matter."""
    try:
        return _traced(operation, examples)
    except LoweringError:
        raise
    except Exception as error:  # whatever the operator does to the tracer, none of it is the caller's
        lines = str(error).strip().splitlines()
        raise LoweringError(f"torch cannot decompose it: {lines[0] if lines else type(error).__name__}") from error


def _traced(operation: Callable[..., tuple[Tensor, ...]], examples: Sequence[Tensor]) -> ExportedProgram:
    # Without it no operator becomes one that only that library knows.
    with torch.no_grad(), quiet(), torch.backends.mkldnn.flags(enabled=False):
        first = make_fx(
            functionalize(operation, remove="mutations"), decomposition_table=_table(), tracing_mode="fake"
        )(*examples)
        first.graph.eliminate_dead_code()
        second = make_fx(functionalize(_Respelled(first).run, remove="mutations"), tracing_mode="fake")(*examples)
        second.graph.eliminate_dead_code()
        for node in second.graph.nodes:
            _require_known(node)
        return _exported(second)


def _require_known(node: fx.Node) -> None:
    """Raise LoweringError, with the reason alone, for what would be something else each time, or has no code."""
    if torch.Tag.nondeterministic_seeded in getattr(node.target, "tags", ()):
        raise LoweringError(f"{node.target} gives random numbers")
    for value in tree_leaves(node.meta.get("val")):
        if isinstance(value, Tensor) and value.dtype not in TYPES:
            raise LoweringError(f"{node.target} computes in {value.dtype}")


def _table() -> dict[Any, Any]:
    table = {**core_aten_decompositions(), **TORCHS_OWN}
    for operator in WITHOUT_DECOMPOSITION:
        table.pop(operator, None)
    return table


class _Respelled(fx.Interpreter):
    """A graph whose operators are ours where there is a spelling for them."""

    def call_function(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """One operator."""
        return super().call_function(SPELLINGS.get(target, target), args, kwargs)


def _exported(module: fx.GraphModule) -> ExportedProgram:
    """The traced graph as TVM's converter takes it; tensors that tracing made become constants."""
    graph, constants = module.graph, dict[str, Any]()
    inputs = [InputSpec(InputKind.USER_INPUT, TensorArgument(n.name), None) for n in graph.find_nodes(op="placeholder")]
    for node in list(graph.find_nodes(op="get_attr")):
        constants[str(node.target)] = getattr(module, str(node.target))
        with graph.inserting_before(next(iter(graph.nodes))):
            constant = graph.placeholder(str(node.target))
        constant.meta.update(node.meta)
        constant.meta.setdefault("val", constants[str(node.target)])
        node.replace_all_uses_with(constant)
        graph.erase_node(node)
        inputs.insert(0, InputSpec(InputKind.CONSTANT_TENSOR, TensorArgument(constant.name), str(node.target)))
    returned = outputs(graph)
    graph.output_node().args = (tuple(returned),)
    results = [OutputSpec(OutputKind.USER_OUTPUT, TensorArgument(n.name), None) for n in returned]
    ins, outs = tree_flatten(((None,) * len(inputs), {}))[1], tree_flatten((None,) * len(results))[1]
    call = ModuleCallEntry("", ModuleCallSignature([], [], ins, outs))
    return ExportedProgram(module, graph, ExportGraphSignature(inputs, results), {}, {}, [call], constants=constants)


@contextmanager
def quiet() -> Iterator[None]:
    """Torch's own code warns of its own deprecated functions while it traces: nothing that its caller can change."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield
