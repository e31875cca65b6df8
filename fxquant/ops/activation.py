"""Activation functions that are no lookup: clamps stay with the accumulators, PReLU has a factor for each sign."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxquant.arguments import argument, node_arg
from fxquant.graph import shape
from fxquant.ops.arithmetic import chained
from fxquant.ops.fixed_point import encode
from fxquant.ops.spelling import Int, Pointwise, Speller, Value
from fxquant.ops.table import Channels, Fusion, float_op

aten, fxq = torch.ops.aten, torch.ops.fxq
INFINITY = float("inf")


def _clamped(s: Speller, node: fx.Node) -> Value:
    low, high = clamp_bounds(node)
    if isinstance(s.known(node.args[0]), Pointwise):
        return chained(s, node.args[0], lambda x: x.clamp(low, high))
    return s.sum_(node.args[0]).clamped(low, high)


def clamp_bounds(node: fx.Node) -> tuple[float, float]:
    """The two ends that a clamping op cuts at."""
    low, high = (_end(node, end) for end in _ENDS[node.target])
    # Where they cross, torch gives the upper one everywhere.
    high = INFINITY if high is None else float(high)
    return min(-INFINITY if low is None else float(low), high), high


# The ends that an op cuts at: numbers, or the names of its arguments.
_ENDS: dict[Any, tuple[float | str | None, float | str | None]] = {
    aten.relu.default: (0.0, None),
    aten.relu6.default: (0.0, 6.0),
    aten.clamp.default: ("min", "max"),
    aten.clip.default: ("min", "max"),
    aten.clamp_min.default: ("min", None),
    aten.clamp_max.default: (None, "max"),
    aten.hardtanh.default: ("min_val", "max_val"),
}


def _end(node: fx.Node, end: float | str | None) -> Any:
    return argument(node, end) if isinstance(end, str) else end


def _constant_ends(node: fx.Node) -> str | None:
    ends = [_end(node, end) for end in _ENDS[node.target]]
    plain = all(end is None or (isinstance(end, (int, float)) and not math.isnan(end)) for end in ends)
    return None if plain else "it clamps at what is no number known before it runs"


@float_op(aten.relu.default, aten.relu6.default, fusion=Fusion.CLAMP, bounds=clamp_bounds)
def relu(s: Speller, node: fx.Node) -> Value:
    """max(x, 0), up to 6 for ReLU6: a narrower integer range, at no cost."""
    return _clamped(s, node)


@float_op(
    aten.clamp.default,
    aten.clip.default,
    aten.clamp_min.default,
    aten.clamp_max.default,
    aten.hardtanh.default,
    fusion=Fusion.CLAMP,
    bounds=clamp_bounds,
    refuses=_constant_ends,
)
def clamp(s: Speller, node: fx.Node) -> Value:
    """clamp(x, low, high): a narrower integer range, at no cost."""
    return _clamped(s, node)


def _constant_slopes(node: fx.Node) -> str | None:
    return None if node_arg(node, "weight").op == "get_attr" else "its slopes are computed, not constant"


@float_op(aten.prelu.default, aten._prelu_kernel.default, refuses=_constant_slopes, channels=Channels.EACH)
def prelu(s: Speller, node: fx.Node) -> Int:
    """x above 0, slope * x below, a slope for each channel: two multipliers, one rounding."""
    x, out = s.int_(node.args[0]), node.meta["fxq.range"].qparams
    slopes, ndim = s.tensor(node_arg(node, "weight")).double(), len(shape(node))
    if node.target is aten.prelu.default:
        slopes = slopes.reshape(*[1] * min(ndim - 1, 1), -1, *[1] * (ndim - 2))
    scale = torch.tensor([x.qparams.one_scale / out.one_scale], dtype=torch.float64)
    shift, multipliers = encode(scale, scale * slopes)
    above, below = (s.constant(m, node, role) for m, role in zip(multipliers, ("above", "below"), strict=True))
    numbers = x.qparams.one_zero_point, out.one_zero_point, out.qmin, out.qmax
    return Int(s.call(fxq.prelu.default, x.node, above, below, shift, *numbers, like=node), out)
