"""Convolutions, matrix products and interpolations, each lowered together with what rounds it."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from fxquant.arguments import int_arg, node_arg
from fxquant.graph import constant_bits
from fxquant.targets.buffers import Tensor
from fxquant.targets.groups import PRODUCTS, Group
from fxquant.targets.kernels.contract.problem import Layer
from fxquant.targets.lowering.attention import multiply
from fxquant.targets.lowering.convolution import Images, bias_of, convolve, place
from fxquant.targets.lowering.lowering import Lowering, lowers, lowers_groups
from fxquant.targets.lowering.resample import resample
from fxquant.targets.lowering.rounding import Rounding, rounding_of
from fxquant.targets.lowering.transposed import convolve_transposed

fxq = torch.ops.fxq


@lowers(*PRODUCTS, fxq.matmul.default)
def product(ctx: Lowering, node: fx.Node) -> None:
    """One that nothing rounds directly is stored as s32."""
    _emit(ctx, node, Rounding(node))


@lowers_groups(*PRODUCTS, fxq.matmul.default, fxq.interpolate.default)
def completed_product(ctx: Lowering, group: Group) -> None:
    """With what completes it."""
    _emit(ctx, group.first, rounding_of(ctx, group))


def _emit(ctx: Lowering, node: fx.Node, rounding: Rounding) -> None:
    """Append the kernel of a product with its epilogue."""
    if node.target is fxq.conv.default:
        convolve(ctx, node, rounding)
    elif node.target is fxq.linear.default:
        _linear(ctx, node, rounding)
    elif node.target is fxq.matmul.default:
        multiply(ctx, node, rounding)
    elif node.target is fxq.interpolate.default:
        resample(ctx, node, rounding)
    else:
        convolve_transposed(ctx, node, rounding)


def _linear(ctx: Lowering, node: fx.Node, rounding: Rounding) -> None:
    """A 1x1 convolution over an image of one row: every row of features is a pixel."""
    weight = ctx.array(node_arg(node, "weight"))[:, :, None, None]
    x, out = _pixels(ctx, ctx.operand(node, "x"), node), _pixels(ctx, ctx.ordered(rounding.node), node)
    residual = None if rounding.residual is None else _pixels(ctx, ctx.tensor(rounding.residual), node)
    bits = constant_bits(node_arg(node, "weight"))
    layer = Layer(weight, bias_of(ctx, node, len(weight)), int_arg(node, "zero_point"), bits)
    place(ctx, node, rounding, Images(x, out, residual), layer)


def _pixels(ctx: Lowering, x: Tensor, node: fx.Node) -> Tensor:
    """(..., features) as an image (1, features, 1, all the rest), its features contiguous."""
    rows = x.try_view(_rows)
    if rows is None or (rows.spec.strides[1] != 1 and rows.shape[1] > 1):
        rows = ctx.dense(x, node).view(_rows)
    (count, features), (step, _) = rows.shape, rows.spec.strides
    return replace(rows, spec=replace(rows.spec, shape=(1, features, 1, count), strides=(0, 1, 0, step)))


def _rows(t: torch.Tensor) -> torch.Tensor:
    return t.view(-1, t.shape[-1])
