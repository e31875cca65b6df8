"""Ops that only move values: the integers stay as they are, and so do scale and zero point."""

from __future__ import annotations

from dataclasses import replace

import torch
from torch import fx

from fxquant.arguments import argument, int_arg, ints_arg, node_arg, nodes_arg
from fxquant.ops.spelling import Int, Speller
from fxquant.ops.table import Channels, RangeRule, float_op

aten, fxq = torch.ops.aten, torch.ops.fxq


# Ops whose result is a view of the operand wherever strides allow it.
VIEWS = (
    aten.reshape.default,
    aten.view.default,
    aten._unsafe_view.default,
    aten.permute.default,
    aten.transpose.int,
    aten.unsqueeze.default,
    aten.squeeze.dim,
    aten.squeeze.dims,
    aten.slice.Tensor,
    aten.select.int,
    aten.expand.default,
)


@float_op(*VIEWS, aten.flip.default, range=RangeRule.SHARED, channels=Channels.MOVED)
def move(s: Speller, node: fx.Node) -> Int:
    """The same operation on the integers."""
    x = s.int_(node.args[0])
    return replace(x, node=s.call(node.target, x.node, *node.args[1:], like=node))


def _known_positions(node: fx.Node) -> str | None:
    return None if node_arg(node, "index").op == "get_attr" else "its positions are computed, not constant"


@float_op(aten.index_select.default, range=RangeRule.SHARED, refuses=_known_positions, channels=Channels.MOVED)
def pick(s: Speller, node: fx.Node) -> Int:
    """The values at constant positions of an axis, in any order, as often as they are named."""
    x, index = s.int_(node.args[0]), node_arg(node, "index")
    picked = s.call(aten.index_select.default, x.node, int_arg(node, "dim"), index, like=node)
    return replace(x, node=picked)


# Below everything that a range may hold: code has its lowest integer there.
_LOWEST = torch.finfo(torch.float32).min

_MAX_POOLS = (aten.max_pool1d.default, aten.max_pool2d.default)


def _zero_padding(node: fx.Node) -> str | None:
    mode, fill = _padding(node)
    if mode != "constant":
        return f"{mode} padding"
    if fill <= _LOWEST and all(user.target in _MAX_POOLS for user in node.users):
        return None
    return None if not fill else f"it pads with {fill}, not with zero"


def _padding(node: fx.Node) -> tuple[str, float]:
    if node.target is aten.constant_pad_nd.default:
        return "constant", float(argument(node, "value"))
    return str(argument(node, "mode")), float(argument(node, "value") or 0.0)


@float_op(
    aten.pad.default,
    aten.constant_pad_nd.default,
    range=RangeRule.SHARED,
    refuses=_zero_padding,
    channels=Channels.MOVED,
)
def pad(s: Speller, node: fx.Node) -> Int:
    """Zero padding: real zero is the zero point. Where maxima alone read it, also padding with the lowest number."""
    x = s.int_(node.args[0])
    code = x.qparams.qmin if _padding(node)[1] <= _LOWEST else x.qparams.one_zero_point
    return replace(x, node=s.call(fxq.pad.default, x.node, ints_arg(node, "pad"), code, like=node))


@float_op(aten.cat.default, range=RangeRule.JOINED, channels=Channels.MOVED)
def concat(s: Speller, node: fx.Node) -> Int:
    """Concatenation of integers that share one scale; a part that would lose precision is requantized first."""
    parts = [s.int_(a) for a in nodes_arg(node, "tensors")]
    return Int(s.call(aten.cat.default, [p.node for p in parts], int_arg(node, "dim"), like=node), parts[0].qparams)


@float_op(aten.embedding.default, range=RangeRule.SHARED)
def embedding(s: Speller, node: fx.Node) -> Int:
    """Rows of a quantized table."""
    table = s.int_(node.args[0])
    return Int(s.call(aten.embedding.default, table.node, node_arg(node, "indices"), like=node), table.qparams)
