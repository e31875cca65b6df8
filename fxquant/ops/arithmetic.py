"""Addition, subtraction, multiplication and division of activations, and with constants."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor, fx

from fxquant.arguments import argument, float_arg
from fxquant.graph import is_float, shape
from fxquant.ops.fixed_point import encode
from fxquant.ops.spelling import Float, Int, Pointwise, Speller, Sum, Term, Value, reach
from fxquant.ops.table import Channels, Fusion, float_op

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


def _is_factor(node: fx.Node, constant: fx.Node) -> bool:
    """Whether a constant only scales the other operand: a factor for each of its places."""
    other = node.args[0] if node.args[1] is constant else node.args[1]
    scales = isinstance(other, fx.Node) and other.op != "get_attr" and str(shape(other)) == str(shape(node))
    return scales and is_float(constant)


@float_op(aten.mul.Tensor, activations=(0, 1), fusion=Fusion.SUM, exact=_is_factor, channels=Channels.ALIKE)
def mul(s: Speller, node: fx.Node) -> Value:
    """a * b with broadcasting; constants only change the scale, of all or of each place."""
    a, b = node.args[:2]
    if not isinstance(b, fx.Node):
        return scaled(s, a, float_arg(node, "other"))
    for x, factor in ((a, b), (b, a)):
        if isinstance(s.known(factor), Float):
            return s.sum_(x).times(s.tensor(factor).double())
    left, right = s.int_(a), s.int_(b)
    zeros = left.qparams.one_zero_point, right.qparams.one_zero_point
    # Of two values of 16 bits, the last bits that 32 have no room for.
    drop = max(0, (reach(left.qparams) * reach(right.qparams) + 1).bit_length() - 31)
    acc = s.call(fxq.mul.default, left.node, zeros[0], right.node, zeros[1], *([drop] if drop else []), like=node)
    scale = torch.tensor([left.qparams.one_scale * 2.0**drop], dtype=torch.float64) * right.qparams.one_scale
    return Sum((Term(acc, 0, scale),))


def _rounds(node: fx.Node) -> str | None:
    if node.target is aten.div.Tensor_mode and argument(node, "rounding_mode") is not None:
        return "it rounds to whole numbers"
    divisor = argument(node, "other")
    return None if isinstance(divisor, fx.Node) or divisor else "it divides by zero"


@float_op(
    aten.div.Tensor,
    aten.div.Tensor_mode,
    activations=(0, 1),
    fusion=Fusion.SUM,
    refuses=_rounds,
    has_poles=True,
    channels=Channels.ALIKE,
)
def div(s: Speller, node: fx.Node) -> Value:
    """Division by a number is a change of scale; of two values, one of their integers in 64 bits, rounded once."""
    if not isinstance(node.args[1], fx.Node):
        return scaled(s, node.args[0], 1.0 / float_arg(node, "other"))
    a, b, out = s.int_(node.args[0]), s.int_(node.args[1]), node.meta["fxq.range"].qparams
    unit = a.qparams.one_scale / (b.qparams.one_scale * out.one_scale)
    shift, (multiplier,) = encode(torch.tensor([unit], dtype=torch.float64))
    zeros = a.qparams.one_zero_point, b.qparams.one_zero_point
    numbers = out.one_zero_point, out.qmin, out.qmax
    factor = s.constant(multiplier, node, "multiplier")
    return Int(s.call(fxq.div.default, a.node, zeros[0], b.node, zeros[1], factor, shift, *numbers, like=node), out)


def scaled(s: Speller, argument: object, factor: float) -> Value:
    """An operand times a number: accumulators of another scale, or a table with other entries."""
    if isinstance(s.known(argument), Pointwise):
        return chained(s, argument, lambda x: x * factor)
    return s.sum_(argument).times(factor)


def chained(s: Speller, argument: object, function: Callable[[Tensor], Tensor]) -> Pointwise:
    """`function` after whatever pointwise function the operand already is."""
    found = s.known(argument)
    if not isinstance(found, Pointwise):
        return Pointwise(s.int_(argument), function)
    inner = found.function
    return Pointwise(found.source, lambda x: function(inner(x)))
