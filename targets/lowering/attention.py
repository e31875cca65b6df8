"""Matrix products of activations, softmax, and layer normalization."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.arguments import int_arg, int_args, node_arg
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.kernels.contract.epilogue import Requantization
from fxquant.targets.kernels.contract.operations import LayerNorm, Matmul, Softmax
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.lowering.rounding import Rounding, epilogue_of, waits

fxq = torch.ops.fxq


@lowers(fxq.matmul.default)
def matmul(ctx: Lowering, node: fx.Node) -> None:
    """Left to what rounds it, where a kernel does both; else the s32 accumulators of a batched product."""
    if not waits(ctx, node):
        multiply(ctx, node, Rounding(node))


def multiply(ctx: Lowering, node: fx.Node, rounding: Rounding) -> None:
    """A batched product with what rounds it."""
    batch = ctx.fake[node].shape[:-2]
    a, b = (ctx.operand(node, p).view(lambda t: t.expand(*batch, *t.shape[-2:])) for p in (0, 2))
    out = ctx.ordered(rounding.node)
    problem = Matmul(a.spec, b.spec, out.spec, epilogue_of(rounding, out.spec))
    choice = ctx.kernels.get("matmul", problem, rounding.numbers or Requantization(0, 0, 0, 0))
    packed = {name: ctx.packed(array, f"{node.name}_{name}") for name, array in choice.constants.items()}
    zeros = ctx.numbers(node, *int_args(node, 1, 3))
    facts: dict[str, Any] = {"macs": out.spec.size * a.shape[-1], "kernel": "matmul"}
    inputs: list[Tensor | Buffer] = [a, b, zeros, *packed.values()]
    ctx.kernel(choice.name, problem, choice.build, inputs, out, node, packed=packed, **facts)


@lowers(fxq.softmax.default)
def lower_softmax(ctx: Lowering, node: fx.Node) -> None:
    """Row by row, in vectors where there are any."""
    x = _rows(ctx, node)
    # A difference of two bytes is one of 256, however few of them are in use.
    table, _ = ctx.whole_table(node_arg(node, 1), x, int(np.iinfo(x.spec.dtype).min) - x.spec.bias)
    out = ctx.ordered(node)
    n = ctx.numbers(node, *int_args(node, 2, 3, 4))
    problem = Softmax(x.spec, table.spec, out.spec)
    choice = ctx.kernels.get("softmax", problem)
    ctx.kernel(choice.name, problem, choice.build, [x, table, n], out, node)


@lowers(fxq.layer_norm.default)
def lower_layer_norm(ctx: Lowering, node: fx.Node) -> None:
    """One row at a time."""
    x, multiplier, offset = _rows(ctx, node), ctx.operand(node, 1), ctx.operand(node, 2)
    out = ctx.ordered(node)
    n = ctx.numbers(node, *int_args(node, 5, 6))
    problem = LayerNorm(x.spec, out.spec, int_arg(node, 3), int_arg(node, 4))
    choice = ctx.kernels.get("layer_norm", problem)
    ctx.kernel(choice.name, problem, choice.build, [x, multiplier, offset, n], out, node)


def _rows(ctx: Lowering, node: fx.Node) -> Tensor:
    """The first operand with its last axis contiguous."""
    x = ctx.operand(node, 0)
    return x if x.spec.strides[-1] == 1 or x.shape[-1] == 1 else ctx.dense(x, node)
