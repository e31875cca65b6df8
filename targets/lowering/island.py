"""Float islands: operations without an integer spelling, computed in float by code that TVM's converter wrote."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import fx, nn

from fxquant.errors import LoweringError
from fxquant.graph import compute, constant_value
from fxquant.names import label_of
from fxquant.source import describe
from fxquant.targets.kernels.kernel import Kernel
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.lowering.real import lower_real
from fxquant.targets.lowering.values import Tensor, row_major
from fxquant.targets.tvm_islands import Value, import_island


class _One(nn.Module):
    """One operation as a module; tensors are inputs, everything else is fixed."""

    def __init__(self, node: fx.Node, sources: list[fx.Node], numbers: dict[fx.Node, Any]) -> None:
        super().__init__()
        self.node, self.sources, self.numbers = node, sources, numbers

    def forward(self, *inputs: torch.Tensor) -> torch.Tensor:
        """The operation."""
        given = {**self.numbers, **dict(zip(self.sources, inputs, strict=True))}
        result: torch.Tensor = compute(self.node, given.__getitem__)
        return result


@lowers("island")
def lower_island(ctx: Lowering, node: fx.Node) -> None:
    """Import one operation, and append its steps."""
    if lower_real(ctx, node):
        return
    sources = [n for n in node.all_input_nodes if isinstance(ctx.fake[n], torch.Tensor)]
    numbers = {n: ctx.fake[n] for n in node.all_input_nodes if n not in sources}
    examples = tuple(_example(ctx, n) for n in sources)
    try:
        program = torch.export.export(_One(node, sources, numbers), examples, strict=False).run_decompositions({})
    except Exception as error:  # whatever the operator does to the exporter, none of it is the caller's
        raise LoweringError(f"{describe(node)} cannot be exported by itself to be compiled in float") from error
    island = import_island(program, describe(node))
    held: dict[Value, Tensor] = {}
    for value, source in zip(island.inputs, sources, strict=True):
        held[value] = _plain(ctx, node, source)
    for value, array in island.constants.items():
        held[value] = ctx.constant(array, f"{node.name}_{value.name}")
    for step in island.steps:
        name = f"{label_of(node)}_{step.result.name}"
        out = held[step.result] = Tensor.new(name, "arena", row_major(step.result.dtype, step.result.shape))
        operands = [held[v] for v in step.operands]
        key = (str(step.kernel), tuple(t.spec for t in (*operands, out)))
        ctx.kernel("island", key, partial(Kernel, step.kernel, 1), operands, out, node)
    found, wanted = held[island.result], ctx.plain(node)
    if (found.spec.dtype, found.shape) != (wanted.dtype, wanted.shape):
        raise LoweringError(
            f"{describe(node)} has no integer spelling, and TVM computes something else in float: "
            f"{found.spec.dtype}{list(found.shape)}, not {wanted.dtype}{list(wanted.shape)}"
        )
    ctx.tensors[node] = found


def _example(ctx: Lowering, node: fx.Node) -> torch.Tensor:
    if node.op == "get_attr":
        return constant_value(ctx.module, node)
    value = ctx.fake[node]
    return torch.zeros(tuple(value.shape), dtype=value.dtype)


def _plain(ctx: Lowering, node: fx.Node, source: fx.Node) -> Tensor:
    """The operand in the order that TVM expects, copied if need be."""
    found, wanted = ctx.tensor(source), ctx.plain(source)
    strides = zip(found.spec.strides, wanted.strides, found.shape, strict=True)
    if found.offset == 0 and found.spec.bias == 0 and all(a == b or n == 1 for a, b, n in strides):
        return found
    out = Tensor.new(f"{label_of(node)}_{label_of(source)}", "arena", wanted)
    ctx.copy(found, out, node)
    return out
