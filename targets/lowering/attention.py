"""Matrix products of activations, softmax, and layer normalization."""

from __future__ import annotations

from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.arguments import int_arg, int_args, node_arg
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.kernels.epilogue.x86 import Requantization, pack_for_all
from fxquant.targets.kernels.products.matmul import matmul_kernel
from fxquant.targets.kernels.rows import layer_norm, softmax
from fxquant.targets.kernels.rows.plain import layer_norm_kernel, softmax_kernel
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
    form = epilogue_of(rounding, out.spec)
    numbers = rounding.numbers or Requantization(0, 0, 0, 0)
    constants = pack_for_all(form, numbers, out.spec)
    packed = {name: ctx.packed(array, f"{node.name}_{name}") for name, array in constants.items()}
    zeros = ctx.numbers(node, *int_args(node, 1, 3))
    key = (a.spec, b.spec, out.spec, ctx.library.isa, form)
    facts: dict[str, Any] = {"macs": out.spec.size * a.shape[-1], "kernel": "matmul"}
    inputs: list[Tensor | Buffer] = [a, b, zeros, *packed.values()]
    ctx.kernel("matmul", key, partial(matmul_kernel, *key), inputs, out, node, packed=packed, **facts)


@lowers(fxq.softmax.default)
def lower_softmax(ctx: Lowering, node: fx.Node) -> None:
    """Row by row, in vectors where the library has them."""
    x = _rows(ctx, node)
    # A difference of two bytes is one of 256, however few of them are in use.
    table, _ = ctx.whole_table(node_arg(node, 1), x, int(np.iinfo(x.spec.dtype).min) - x.spec.bias)
    out = ctx.ordered(node)
    n = ctx.numbers(node, *int_args(node, 2, 3, 4))
    key, isa = (x.spec, table.spec, out.spec), ctx.library.isa
    build = partial(softmax_kernel, *key)
    if isa is not None and softmax.takes(x.spec, out.spec, isa):
        build = partial(softmax.vector_softmax_kernel, *key, isa)
    ctx.kernel("softmax", key, build, [x, table, n], out, node)


@lowers(fxq.layer_norm.default)
def lower_layer_norm(ctx: Lowering, node: fx.Node) -> None:
    """One row at a time."""
    x, multiplier, offset = _rows(ctx, node), ctx.operand(node, 1), ctx.operand(node, 2)
    out = ctx.ordered(node)
    n = ctx.numbers(node, *int_args(node, 5, 6))
    key, isa = (x.spec, out.spec, int_arg(node, 3), int_arg(node, 4)), ctx.library.isa
    build = partial(layer_norm_kernel, *key)
    if isa is not None and layer_norm.takes(x.spec, out.spec, isa):
        build = partial(layer_norm.vector_layer_norm_kernel, *key, isa)
    ctx.kernel("layer_norm", key, build, [x, multiplier, offset, n], out, node)


def _rows(ctx: Lowering, node: fx.Node) -> Tensor:
    """The first operand with its last axis contiguous."""
    x = ctx.operand(node, 0)
    return x if x.spec.strides[-1] == 1 or x.shape[-1] == 1 else ctx.dense(x, node)
