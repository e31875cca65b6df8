"""The larger and the smaller of two values, one of two by a condition, and the conditions themselves.

Rounding keeps order: so operands are brought to the scale of the result, where integers are chosen instead of numbers.
A comparison with a number is a table of truths. Two values are compared as 64-bit products, which are not rounded.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fxquant.arguments import argument, float_arg, node_arg
from fxquant.ops.arithmetic import chained
from fxquant.ops.fixed_point import encode
from fxquant.ops.spelling import Int, Pointwise, Speller, reals
from fxquant.ops.table import Channels, Fusion, float_op
from fxquant.qparams import QParams

aten, fxq = torch.ops.aten, torch.ops.fxq

# Conditions as integers that mean themselves.
BOOLEAN = QParams.tensor(1.0, 0, 0, 1)


@float_op(aten.maximum.default, aten.minimum.default, activations=(0, 1), channels=Channels.ALIKE)
def extreme(s: Speller, node: fx.Node) -> Int:
    """The larger or the smaller of two values: of two integers at the scale of the result."""
    out: QParams = node.meta["fxq.range"].qparams
    left, right = (_at(s, operand, out, node) for operand in node.args[:2])
    return Int(s.call(node.target, left, right, like=node), out)


_CHOICES = (aten.where.self, aten.where.ScalarOther, aten.where.ScalarSelf)


def _condition(node: fx.Node) -> str | None:
    is_boolean = node_arg(node, "condition").meta["val"].dtype is torch.bool
    return None if is_boolean else "its condition is not boolean"


@float_op(*_CHOICES, activations=(1, 2), refuses=_condition)
def where(s: Speller, node: fx.Node) -> Int:
    """One of two values, at the scale of the result, by a mask that is constant, an input, or compared here."""
    out: QParams = node.meta["fxq.range"].qparams
    yes, no = (_at(s, operand, out, node) for operand in node.args[1:3])
    return Int(s.call(aten.where.self, node.args[0], yes, no, like=node), out)


def _at(s: Speller, operand: Any, out: QParams, node: fx.Node) -> fx.Node:
    """An operand, a number too, as integers of the result's scale."""
    if isinstance(operand, fx.Node):
        return s.rounded(s.known(operand), out, node)
    return s.constant(out.quantize(torch.tensor([float(operand)])), node, "number")


@float_op(
    aten.gt.Scalar,
    aten.ge.Scalar,
    aten.lt.Scalar,
    aten.le.Scalar,
    aten.eq.Scalar,
    aten.ne.Scalar,
    fusion=Fusion.POINTWISE,
)
def comparison(s: Speller, node: fx.Node) -> Int:
    """Whether a value is above, below or at a number: a table of truths."""
    number = float_arg(node, "other")

    def truth(x: Tensor) -> Tensor:
        # In float32, as PyTorch compares.
        found: Tensor = node.target(x.float(), number)  # type: ignore[operator]
        return found.double()

    value = chained(s, node.args[0], truth)
    return Int(s.lookup(value.source, truths(value), node), BOOLEAN)


def truths(value: Pointwise) -> Tensor:
    """For each code of a value, whether a condition of it holds."""
    return value.function(reals(value.source.qparams)) > 0.5


_SWAPPED = (aten.lt.Tensor, aten.le.Tensor)
_OR_EQUAL = (aten.ge.Tensor, aten.le.Tensor)


@float_op(aten.gt.Tensor, aten.ge.Tensor, *_SWAPPED, activations=(0, 1))
def order(s: Speller, node: fx.Node) -> Int:
    """Whether a value is above or below another: both scaled in 64 bits, not rounded."""
    operands = [s.int_(argument(node, name)) for name in ("self", "other")]
    a, b = operands[::-1] if node.target in _SWAPPED else operands
    scales = [torch.tensor([x.qparams.one_scale], dtype=torch.float64) for x in (a, b)]
    largest = torch.maximum(*scales)
    shift, multipliers = encode(*(scale / largest for scale in scales))
    # However small a value is beside the other's steps, it is above zero, or below.
    left, right = (
        (x.node, s.constant(m.clamp(min=1), node, "multiplier"), x.qparams.one_zero_point)
        for x, m in zip((a, b), multipliers, strict=True)
    )
    return Int(s.call(fxq.above.default, *left, *right, shift, node.target in _OR_EQUAL, like=node), BOOLEAN)
