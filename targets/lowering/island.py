"""Float islands: operations without an integer spelling, computed in float by code that was compared with torch."""

from __future__ import annotations

from functools import partial

import torch
from torch import Tensor as Values
from torch import fx

from fxquant.arguments import int_arg
from fxquant.graph import constant_value
from fxquant.names import label_of
from fxquant.targets.buffers import Tensor, row_major
from fxquant.targets.islands.operation import Operation
from fxquant.targets.islands.proven import proven_island
from fxquant.targets.kernels.contract.kernel import Kernel
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.lowering.real import lower_real
from fxquant.targets.tvm_islands import Island, Value


@lowers("island")
def lower_island(ctx: Lowering, node: fx.Node) -> None:
    """Import one operation, and append its steps."""
    if lower_real(ctx, node):
        return
    sources = tuple(n for n in node.all_input_nodes if isinstance(ctx.fake[n], Values))
    numbers = {n: ctx.fake[n] for n in node.all_input_nodes if n not in sources}
    picks = {user: int_arg(user, 1) for user in node.users} if not isinstance(ctx.fake[node], Values) else {node: 0}
    wanted = sorted(set(picks.values()))
    constants = {i: constant_value(ctx.module, n) for i, n in enumerate(sources) if n.op == "get_attr"}
    examples = [torch.zeros(tuple(ctx.fake[n].shape), dtype=ctx.fake[n].dtype) for n in sources]
    island = proven_island(Operation(node, sources, numbers, tuple(wanted)), examples, constants)
    results = _steps(ctx, node, sources, island)
    for reader, place in picks.items():
        ctx.tensors[reader] = results[wanted.index(place)]
        # Picking one of several results is no step.
        ctx.lowered.add(reader)


def _steps(ctx: Lowering, node: fx.Node, sources: tuple[fx.Node, ...], island: Island) -> list[Tensor]:
    """Append the island's steps; its results."""
    held: dict[Value, Tensor] = {}
    for value, source in zip(island.inputs, sources, strict=True):
        held[value] = _plain(ctx, node, source)
    for value, array in island.constants.items():
        held[value] = ctx.constant(array, f"{node.name}_{value.name}")
    for step in island.steps:
        for result in step.results:
            spec = row_major(result.dtype, result.shape)
            held[result] = Tensor.new(f"{label_of(node)}_{result.name}", "arena", spec)
        operands, outs = ([held[v] for v in values] for values in (step.operands, step.results))
        key = (str(step.kernel), tuple(t.spec for t in (*operands, *outs)))
        ctx.kernel("island", key, partial(Kernel, step.kernel, 1), operands, outs[0], node, others=outs[1:])
    return [held[value] for value in island.results]


def _plain(ctx: Lowering, node: fx.Node, source: fx.Node) -> Tensor:
    """The operand in the order that TVM expects, copied if need be."""
    found, wanted = ctx.tensor(source), ctx.plain(source)
    strides = zip(found.spec.strides, wanted.strides, found.shape, strict=True)
    if found.offset == 0 and found.spec.bias == 0 and all(a == b or n == 1 for a, b, n in strides):
        return found
    out = Tensor.new(f"{label_of(node)}_{label_of(source)}", "arena", wanted)
    ctx.copy(found, out, node)
    return out
