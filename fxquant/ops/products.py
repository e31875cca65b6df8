"""Convolutions, linear layers and matrix products: accumulators of scale s_x * s_w."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant.arguments import argument, arguments, node_arg
from fxquant.graph import shape
from fxquant.ops.spelling import MOST_DROP, Speller, Sum, Term, reach
from fxquant.ops.table import Channels, Fusion, float_op

aten, fxq = torch.ops.aten, torch.ops.fxq


def numbers(value: Any, dims: int) -> list[int]:
    """One integer per spatial axis, from one for all or one for each."""
    several = list(value) if isinstance(value, (list, tuple)) else [value]
    return [int(v) for v in (several * dims if len(several) == 1 else several)]


def _weighted(
    s: Speller, node: fx.Node, primitive: Any, *settings: Any, channel: int = 1, transposed: int | None = None
) -> Sum:
    """Accumulators of `primitive`, with one scale per output channel; `channel` is the result's axis of channels.

    A transposed convolution has (in, out / groups, ...) weights, `transposed` being its number of groups.
    """
    source, kernel, bias = arguments(node)[:3]
    x, w = s.int_(source), s.weight(kernel)
    scale, per_output = w.scale.double() * x.qparams.one_scale, w.integers
    if transposed is not None:
        scale = scale.repeat(transposed)
        per_output = per_output.reshape(transposed, -1, *per_output.shape[1:]).transpose(1, 2).flatten(0, 1)
    bias_node, bias_value = s.bias(None if x.by else bias, scale, node)
    largest, drop = s.prove(per_output, x.qparams, bias_value, node)
    weight = s.constant(w.integers, node, "weight")
    acc = s.call(
        primitive, x.node, weight, bias_node, x.qparams.one_zero_point, *settings, *([drop] if drop else []), like=node
    )
    axes = [1] * len(shape(node))
    axes[channel] = -1
    later = s.tensor(bias) if x.by and bias is not None else None
    narrow = largest.reshape(axes) if w.narrow else None
    return Sum((Term(acc, 0, scale.reshape(axes) * 2.0**drop, narrow),), bias=later)


def constant_weight(node: fx.Node) -> str | None:
    """Why a product has no integer spelling: weights and biases must be constants."""
    weight = argument(node, "weight")
    while isinstance(weight, fx.Node) and weight.op == "call_function" and str(weight.target).startswith("fxq."):
        weight = weight.args[0]
    if not isinstance(weight, fx.Node) or weight.op != "get_attr":
        return "its weight is computed, not constant"
    bias = argument(node, "bias")
    return None if bias is None or bias.op == "get_attr" else "its bias is computed, not constant"


@float_op(
    aten.conv1d.default,
    aten.conv2d.default,
    weight=1,
    channels=Channels.WEIGHTED,
    bias=2,
    fusion=Fusion.SUM,
    refuses=constant_weight,
)
def conv(s: Speller, node: fx.Node) -> Sum:
    """sum((x - z) * w) + b, one scale per output channel, any stride, padding, dilation and groups."""
    *spatial, groups = arguments(node)[3:]
    settings = [numbers(v, len(shape(node)) - 2) for v in spatial]
    return _weighted(s, node, fxq.conv.default, *settings, int(groups))


@float_op(
    aten.conv_transpose1d.default,
    aten.conv_transpose2d.input,
    weight=1,
    channels=Channels.WEIGHTED,
    bias=2,
    weight_axis=1,
    fusion=Fusion.SUM,
    refuses=constant_weight,
)
def conv_transpose(s: Speller, node: fx.Node) -> Sum:
    """The transposed convolution; one scale per output channel of each group."""
    stride, padding, extra, groups, dilation = arguments(node)[3:]
    settings = [numbers(v, len(shape(node)) - 2) for v in (stride, padding, extra, dilation)]
    return _weighted(s, node, fxq.conv_transpose.default, *settings, int(groups), transposed=int(groups))


@float_op(
    aten.linear.default,
    weight=1,
    bias=2,
    fusion=Fusion.SUM,
    refuses=constant_weight,
    channels=Channels.WEIGHTED,
)
def linear(s: Speller, node: fx.Node) -> Sum:
    """(x - z) @ w.T + b, one scale per output feature."""
    return _weighted(s, node, fxq.linear.default, channel=-1)


def _at_least_matrices(node: fx.Node) -> str | None:
    ranks = [a.meta["val"].ndim for a in node.args[:2] if isinstance(a, fx.Node)]
    return None if all(r >= 2 for r in ranks) else "a matrix product with a vector operand"


@float_op(aten.matmul.default, aten.bmm.default, activations=(0, 1), fusion=Fusion.SUM, refuses=_at_least_matrices)
def matmul(s: Speller, node: fx.Node) -> Sum:
    """Product of two activations, batched over the leading axes."""
    a, b = s.int_(node.args[0]), s.int_(node.args[1])
    length = int(shape(node_arg(node, 0))[-1])
    is_wide = torch.int16 in (a.qparams.dtype, b.qparams.dtype)
    largest = length * reach(a.qparams) * reach(b.qparams)
    drop = s.prove_reach(largest, node, most_drop=MOST_DROP if is_wide else 0)
    zeros = a.qparams.one_zero_point, b.qparams.one_zero_point
    acc = s.call(fxq.matmul.default, a.node, zeros[0], b.node, zeros[1], *([drop] if drop else []), like=node)
    scale = torch.tensor([a.qparams.one_scale * 2.0**drop], dtype=torch.float64) * b.qparams.one_scale
    return Sum((Term(acc, 0, scale),))
