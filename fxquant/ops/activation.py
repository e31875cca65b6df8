"""Activation functions: clamps stay with the accumulators, everything else is one lookup, exactly rounded."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.ops.arithmetic import chained
from fxquant.ops.spelling import Pointwise, Speller, Value
from fxquant.ops.table import Fusion, RangeRule, float_op

aten = torch.ops.aten
INFINITY = float("inf")


def _clamped(s: Speller, node: fx.Node) -> Value:
    low, high = clamp_bounds(node)
    if isinstance(s.known(node.args[0]), Pointwise):
        return chained(s, node.args[0], lambda x: x.clamp(low, high))
    return s.sum_(node.args[0]).clamped(low, high)


def clamp_bounds(node: fx.Node) -> tuple[float, float]:
    """The two ends that a clamping op cuts at."""
    if node.target is aten.relu.default:
        return 0.0, INFINITY
    if node.target is aten.relu6.default:
        return 0.0, 6.0
    given = [a if isinstance(a, (int, float)) else None for a in [*node.args[1:], None, None][:2]]
    if node.target is aten.hardtanh.default and given == [None, None]:
        given = [-1.0, 1.0]
    low, high = given[0], given[1]
    return -INFINITY if low is None else float(low), INFINITY if high is None else float(high)


@float_op(aten.relu.default, aten.relu6.default, fusion=Fusion.CLAMP, bounds=clamp_bounds)
def relu(s: Speller, node: fx.Node) -> Value:
    """max(x, 0), up to 6 for ReLU6: a narrower integer range, at no cost."""
    return _clamped(s, node)


@float_op(
    aten.clamp.default,
    aten.clamp_min.default,
    aten.hardtanh.default,
    fusion=Fusion.CLAMP,
    bounds=clamp_bounds,
)
def clamp(s: Speller, node: fx.Node) -> Value:
    """clamp(x, low, high): a narrower integer range, at no cost."""
    return _clamped(s, node)


def _within(low: float, high: float) -> Callable[[fx.Node], tuple[float, float]]:
    return lambda node: (low, high)


def _pointwise(name: str, doc: str, function: Callable[[fx.Node], Callable[[Tensor], Tensor]], *targets: Any, **facts: Any) -> None:
    def spell(s: Speller, node: fx.Node) -> Value:
        return chained(s, node.args[0], function(node))

    spell.__name__, spell.__doc__ = name, doc
    float_op(*targets, fusion=Fusion.POINTWISE, **facts)(spell)


def _same(function: Callable[[Tensor], Tensor]) -> Callable[[fx.Node], Callable[[Tensor], Tensor]]:
    return lambda node: function


def _with_arguments(function: Callable[..., Tensor]) -> Callable[[fx.Node], Callable[[Tensor], Tensor]]:
    return lambda node: lambda x: function(x, *node.args[1:], **node.kwargs)


F = torch.nn.functional
_pointwise("sigmoid", "1 / (1 + e^-x), range [0, 1].", _same(torch.sigmoid), aten.sigmoid.default,
           range=RangeRule.KNOWN, bounds=_within(0.0, 1.0))  # fmt: skip
_pointwise("tanh", "Hyperbolic tangent, range [-1, 1].", _same(torch.tanh), aten.tanh.default,
           range=RangeRule.KNOWN, bounds=_within(-1.0, 1.0))  # fmt: skip
_pointwise("hardsigmoid", "relu6(x + 3) / 6, range [0, 1].", _same(F.hardsigmoid), aten.hardsigmoid.default,
           range=RangeRule.KNOWN, bounds=_within(0.0, 1.0))  # fmt: skip
_pointwise("hardswish", "x * relu6(x + 3) / 6.", _same(F.hardswish), aten.hardswish.default, bounds=_within(-0.375, INFINITY))
_pointwise("silu", "x * sigmoid(x).", _same(F.silu), aten.silu.default, bounds=_within(-0.2785, INFINITY))
_pointwise("gelu", "x * Phi(x), exact or by tanh.", _with_arguments(aten.gelu.default), aten.gelu.default,
           bounds=_within(-0.171, INFINITY))  # fmt: skip
_pointwise("elu", "x above 0, alpha * (e^x - 1) below.", _with_arguments(aten.elu.default), aten.elu.default)
_pointwise("leaky_relu", "x above 0, slope * x below.", _with_arguments(aten.leaky_relu.default), aten.leaky_relu.default)
_pointwise("mish", "x * tanh(softplus(x)).", _same(F.mish), aten.mish.default, bounds=_within(-0.309, INFINITY))
_pointwise("softplus", "log(1 + e^x).", _with_arguments(aten.softplus.default), aten.softplus.default, bounds=_within(0.0, INFINITY))
_pointwise("exp", "e^x.", _same(torch.exp), aten.exp.default, bounds=_within(0.0, INFINITY))
_pointwise("neg", "-x.", _same(torch.neg), aten.neg.default)
_pointwise("abs", "|x|.", _same(torch.abs), aten.abs.default, bounds=_within(0.0, INFINITY))
_pointwise("square", "x^n for a constant n.", lambda node: lambda x: torch.pow(x, node.args[1]), aten.pow.Tensor_Scalar)  # type: ignore[arg-type]
