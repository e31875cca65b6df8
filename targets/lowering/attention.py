"""Matrix products of activations."""

from __future__ import annotations

from functools import partial
from typing import Any

import torch
from torch import fx

from fxquant.arguments import int_args
from fxquant.targets.kernels.epilogue import Requantization, pack_for_all
from fxquant.targets.kernels.matmul import matmul_kernel
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.lowering.rounding import Rounding, epilogue_of, waits
from fxquant.targets.lowering.values import Buffer, Tensor

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
    form = epilogue_of(rounding, out.spec)
    numbers = rounding.numbers or Requantization(0, 0, 0, 0)
    constants = pack_for_all(form, numbers, out.spec)
    packed = {name: ctx.packed(array, f"{node.name}_{name}") for name, array in constants.items()}
    zeros = ctx.numbers(node, *int_args(node, 1, 3))
    key = (a.spec, b.spec, out.spec, ctx.library.isa, form)
    facts: dict[str, Any] = {"macs": out.spec.size * a.shape[-1], "kernel": "matmul"}
    inputs: list[Tensor | Buffer] = [a, b, zeros, *packed.values()]
    ctx.kernel("matmul", key, partial(matmul_kernel, *key), inputs, out, node, packed=packed, **facts)
