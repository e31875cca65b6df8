"""Activation functions: clamps stay with the accumulators, everything else is one lookup, exactly rounded."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxquant.arguments import argument
from fxquant.ops.arithmetic import chained
from fxquant.ops.spelling import Pointwise, Speller, Value
from fxquant.ops.table import FloatOp, Fusion, RangeRule, enter, float_op

aten = torch.ops.aten
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


@dataclass(frozen=True)
class _Curve:
    """A function of one value; its further arguments are constants. With `bounded`, results mostly fill the bounds."""

    name: str
    doc: str
    target: Any
    low: float = -INFINITY
    high: float = INFINITY
    bounded: bool = False

    def spell(self, s: Speller, node: fx.Node) -> Value:
        """One lookup, whatever the function."""
        return chained(s, node.args[0], lambda x: self.target(x, *node.args[1:], **node.kwargs))

    def bounds(self, node: fx.Node) -> tuple[float, float]:
        """The same for every call."""
        return self.low, self.high

    def record(self) -> FloatOp:
        """The curve in the terms of the op table."""
        rule = RangeRule.BOUNDED if self.bounded else RangeRule.OBSERVED
        return FloatOp(
            self.name, (self.target,), self.spell, self.doc, range=rule, fusion=Fusion.POINTWISE, bounds=self.bounds
        )


_CURVES = (
    _Curve("sigmoid", "1 / (1 + e^-x), range [0, 1].", aten.sigmoid.default, 0.0, 1.0, bounded=True),
    _Curve("tanh", "Hyperbolic tangent, range [-1, 1].", aten.tanh.default, -1.0, 1.0, bounded=True),
    _Curve("hardsigmoid", "relu6(x + 3) / 6, range [0, 1].", aten.hardsigmoid.default, 0.0, 1.0, bounded=True),
    _Curve("hardswish", "x * relu6(x + 3) / 6.", aten.hardswish.default, -0.375),
    _Curve("silu", "x * sigmoid(x).", aten.silu.default, -0.2785),
    _Curve("gelu", "x * Phi(x), exact or by tanh.", aten.gelu.default, -0.171),
    _Curve("elu", "x above 0, alpha * (e^x - 1) below.", aten.elu.default),
    _Curve("leaky_relu", "x above 0, slope * x below.", aten.leaky_relu.default),
    _Curve("mish", "x * tanh(softplus(x)).", aten.mish.default, -0.309),
    _Curve("softplus", "log(1 + e^x).", aten.softplus.default, 0.0),
    _Curve("exp", "e^x.", aten.exp.default, 0.0),
    _Curve("neg", "-x.", aten.neg.default),
    _Curve("abs", "|x|.", aten.abs.default, 0.0),
    _Curve("square", "x^n for a constant n.", aten.pow.Tensor_Scalar),
)

for _curve in _CURVES:
    enter(_curve.record())
