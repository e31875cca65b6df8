"""Addition, subtraction and multiplication of activations, and with constants."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from fxquant.arguments import argument, float_arg
from fxquant.ops.spelling import Pointwise, Speller, Sum, Term, Value, reach
from fxquant.ops.table import Fusion, float_op

aten, fxq = torch.ops.aten, torch.ops.fxq


@float_op(aten.add.Tensor, activations=(0, 1), fusion=Fusion.ADD)
def add(s: Speller, node: fx.Node) -> Value:
    """a + alpha * b with a single rounding; an accumulator operand is taken up unrounded."""
    return _combined(s, node, float_arg(node, "alpha"))


@float_op(aten.sub.Tensor, activations=(0, 1), fusion=Fusion.ADD)
def sub(s: Speller, node: fx.Node) -> Value:
    """a - alpha * b with a single rounding."""
    return _combined(s, node, -float_arg(node, "alpha"))


def _combined(s: Speller, node: fx.Node, factor: float) -> Value:
    a, b = node.args[:2]
    if not isinstance(b, fx.Node):
        shift = factor * float_arg(node, "other")
        return chained(s, a, lambda x: x + shift)
    left, right = s.sum_(a), s.sum_(b).times(factor)
    return Sum(left.terms + right.terms)


@float_op(aten.rsub.Scalar, fusion=Fusion.POINTWISE)
def rsub(s: Speller, node: fx.Node) -> Value:
    """constant - alpha * x, as a lookup."""
    constant, factor = float_arg(node, "other"), float_arg(node, "alpha")
    return chained(s, node.args[0], lambda x: constant - factor * x)


@float_op(aten.mul.Tensor, activations=(0, 1), fusion=Fusion.SUM)
def mul(s: Speller, node: fx.Node) -> Value:
    """a * b with broadcasting; by a constant it only changes the scale."""
    a, b = node.args[:2]
    if not isinstance(b, fx.Node):
        return s.sum_(a).times(float_arg(node, "other"))
    left, right = s.int_(a), s.int_(b)
    s.prove_reach(reach(left.qparams) * reach(right.qparams), node, "a product")
    zeros = left.qparams.one_zero_point, right.qparams.one_zero_point
    acc = s.call(fxq.mul.default, left.node, zeros[0], right.node, zeros[1], like=node)
    scale = torch.tensor([left.qparams.one_scale], dtype=torch.float64) * right.qparams.one_scale
    return Sum((Term(acc, 0, scale),))


def _constant_divisor(node: fx.Node) -> str | None:
    divisor = argument(node, "other")
    if isinstance(divisor, fx.Node):
        return "it divides by a computed value"
    if node.target is aten.div.Tensor_mode and argument(node, "rounding_mode") is not None:
        return "it rounds to whole numbers"
    return None if divisor else "it divides by zero"


@float_op(aten.div.Tensor, aten.div.Tensor_mode, fusion=Fusion.SUM, refuses=_constant_divisor)
def div(s: Speller, node: fx.Node) -> Value:
    """Division by a constant, a change of scale."""
    return s.sum_(node.args[0]).times(1.0 / float_arg(node, "other"))


def chained(s: Speller, argument: object, function: Callable[[Tensor], Tensor]) -> Pointwise:
    """`function` after whatever pointwise function the operand already is."""
    found = s.known(argument)
    if not isinstance(found, Pointwise):
        return Pointwise(s.int_(argument), function)
    inner = found.function
    return Pointwise(found.source, lambda x: function(inner(x)))
