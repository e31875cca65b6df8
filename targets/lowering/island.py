"""Float islands: operations without an integer spelling, computed in float by code that TVM's converter wrote."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx, nn

from fxquant.errors import LoweringError
from fxquant.graph import constant_value
from fxquant.source import describe
from fxquant.targets.kernels.kernel import Kernel, TensorSpec
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.lowering.values import Buffer, Tensor, strides_for
from fxquant.targets.tvm_islands import Value, import_island


class _One(nn.Module):
    """One operation as a module; tensors are inputs, everything else is fixed."""

    def __init__(self, node: fx.Node, sources: list[fx.Node], numbers: dict[fx.Node, Any]) -> None:
        super().__init__()
        self.node, self.sources, self.numbers = node, sources, numbers

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The operation."""
        given = {**self.numbers, **dict(zip(self.sources, inputs, strict=True))}
        args, kwargs = (fx.map_arg(a, lambda n: given[n]) for a in (self.node.args, self.node.kwargs))
        return self.node.target(*args, **kwargs)  # type: ignore[operator,no-any-return]


@lowers("island")
def lower_island(l: Lowering, node: fx.Node) -> None:
    """Import one operation, and append its steps."""
    sources = [n for n in node.all_input_nodes if isinstance(l.fake[n], torch.Tensor)]
    numbers = {n: l.fake[n] for n in node.all_input_nodes if n not in sources}
    examples = tuple(_example(l, n) for n in sources)
    try:
        program = torch.export.export(_One(node, sources, numbers), examples, strict=False).run_decompositions({})
    except Exception as error:
        raise LoweringError(f"{describe(node)} cannot be exported by itself to be compiled in float") from error
    island = import_island(program, describe(node))
    held: dict[Value, Tensor] = {}
    for value, source in zip(island.inputs, sources, strict=True):
        held[value] = _dense(l, node, source)
    for value, array in island.constants.items():
        held[value] = l.constant(array, f"{node.name}_{value.name}")
    for step in island.steps:
        held[step.result] = _room(l, node, step.result)
        kernel = step.kernel
        key = (str(kernel), tuple(held[v].spec for v in (*step.operands, step.result)))
        arguments = [*(held[v] for v in step.operands), held[step.result]]
        l.kernel("island", key, lambda kernel=kernel: Kernel(kernel, 1), arguments, held[step.result], node)  # type: ignore[misc]
    l.tensors[node] = held[island.result]


def _example(l: Lowering, node: fx.Node) -> torch.Tensor:
    if node.op == "get_attr":
        return constant_value(l.module, node)
    value = l.fake[node]
    return torch.zeros(tuple(value.shape), dtype=value.dtype)


def _dense(l: Lowering, node: fx.Node, source: fx.Node) -> Tensor:
    """The operand in the order that TVM expects, copied if need be."""
    found = l.tensor(source)
    wanted = strides_for(found.shape, range(len(found.shape)))
    same = all(a == b or n == 1 for a, b, n in zip(found.spec.strides, wanted, found.shape, strict=True))
    if same and found.offset == 0 and found.spec.bias == 0:
        return found
    out = _room(l, node, Value(source.name, found.shape, str(l.fake[source].dtype).removeprefix("torch.")))
    l.map("copy", out, [found], lambda t, i: t[0](*i), node)
    return out


def _room(l: Lowering, node: fx.Node, value: Value) -> Tensor:
    spec = TensorSpec(value.dtype, value.shape, strides_for(value.shape, range(len(value.shape))))
    size = torch.empty((), dtype=getattr(torch, value.dtype)).element_size() * spec.size
    return Tensor(Buffer(f"{node.name}_{value.name}", "arena", size), spec)
