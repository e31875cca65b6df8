"""Primitives that work row by row: softmax, the logarithm of its sum, normalization."""

from __future__ import annotations

import numpy as np
import torch
from torch import fx

from fxquant.arguments import int_arg, int_args, node_arg
from fxquant.targets.buffers import Tensor
from fxquant.targets.kernels.contract.operations import LogSum, Norm, Softmax
from fxquant.targets.lowering.lowering import Lowering, lowers

fxq = torch.ops.fxq


@lowers(fxq.softmax.default)
def lower_softmax(ctx: Lowering, node: fx.Node) -> None:
    """Row by row, in vectors where there are any."""
    x = _rows(ctx, node)
    table = _powers(ctx, node, "table", x)
    out = ctx.ordered(node)
    one = int_arg(node, "one")
    n = ctx.numbers(node, *int_args(node, "zero_point", "qmin", "qmax"), one >> 30, one & (1 << 30) - 1)
    problem = Softmax(x.spec, table.spec, out.spec)
    choice = ctx.kernels.get("softmax", problem)
    ctx.kernel(choice.name, problem, choice.build, [x, table, n], out, node)


@lowers(fxq.log_sum.default)
def lower_log_sum(ctx: Lowering, node: fx.Node) -> None:
    """One row at a time."""
    x = _rows(ctx, node)
    table, curve = _powers(ctx, node, "powers", x), ctx.operand(node, "logarithms")
    out = ctx.ordered(node)
    n = ctx.numbers(node, *int_args(node, "zero_point", "octave", "origin"))
    problem = LogSum(x.spec, table.spec, out.spec, int_arg(node, "fraction"))
    choice = ctx.kernels.get("log_sum", problem)
    ctx.kernel(choice.name, problem, choice.build, [x, table, curve, n], out, node)


@lowers(fxq.layer_norm.default)
def lower_layer_norm(ctx: Lowering, node: fx.Node) -> None:
    """About the mean of each row."""
    epsilon, half, low, high = int_args(node, "epsilon", "half", "qmin", "qmax")
    _normalize(ctx, node, (epsilon, half), (low, high))


@lowers(fxq.rms_norm.default)
def lower_rms_norm(ctx: Lowering, node: fx.Node) -> None:
    """About zero."""
    zero, epsilon, half, low, high = int_args(node, "zero_point", "epsilon", "half", "qmin", "qmax")
    _normalize(ctx, node, (epsilon, half), (low, high, zero))


def _normalize(ctx: Lowering, node: fx.Node, settings: tuple[int, int], numbers: tuple[int, ...]) -> None:
    """A third number is the zero point that rows are normalized about."""
    x, multiplier, offset = _rows(ctx, node), ctx.operand(node, "multiplier"), ctx.operand(node, "offset")
    out = ctx.ordered(node)
    problem = Norm(x.spec, out.spec, *settings, about_zero=len(numbers) == 3)
    choice = ctx.kernels.get("norm", problem)
    inputs = [x, multiplier, offset, ctx.numbers(node, *numbers)]
    ctx.kernel(choice.name, problem, choice.build, inputs, out, node)


def _powers(ctx: Lowering, node: fx.Node, name: str, x: Tensor) -> Tensor:
    """Softmax's table; a difference of two bytes is one of 256, however few of them are in use."""
    table, _ = ctx.whole_table(node_arg(node, name), x, int(np.iinfo(x.spec.dtype).min) - x.spec.bias)
    return table


def _rows(ctx: Lowering, node: fx.Node) -> Tensor:
    """The first operand with its last axis contiguous."""
    x = ctx.operand(node, "x")
    return x if x.spec.strides[-1] == 1 or x.shape[-1] == 1 else ctx.dense(x, node)
