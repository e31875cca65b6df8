"""What `Decompose` makes of operators on values: gates, masks, limits, and softmax over any axis.

glu(x, 1)                          =>   mul(slice(x), sigmoid(slice(x)))
rrelu(x, 0.1, 0.3)                 =>   leaky_relu(x, 0.2)
masked_fill(x, m, v), mul(x, m)    =>   where(m, v, x), where(m, x, 0) for a mask m of truths
clamp(x, low, high) with tensors   =>   minimum(maximum(x, low), high)
div(x, c), add(x, [1, 2, 3])       =>   mul(x, 1 / c) for a constant c, add(x, [1.0, 2.0, 3.0])
lerp(x, y, w), addcmul(x, a, b)    =>   x * (1 - w) + y * w, x + a * b
softmax(x, 1)                      =>   permute(softmax(permute(x), -1))
log_softmax(x, -1)                 =>   sub(x, logsumexp(x, [-1], True))
exp(where(m, -inf, x))             =>   where(m, 0, exp(where(m, 0, x)))
index_select(table, 0, i)          =>   embedding(table, i) for a constant table and an index that is computed
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from fxquant.arguments import argument, arguments, callee, int_arg, ints_arg, node_arg
from fxquant.graph import call, is_constant, is_float, shape

aten = torch.ops.aten


def gated(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """One half times the sigmoid of the other."""
    x, axis = node_arg(node, "self"), int_arg(node, "dim") % len(shape(node))
    half = int(shape(node)[axis])
    value = call(graph, aten.slice.Tensor, x, axis, 0, half, like=node)
    gate = call(graph, aten.slice.Tensor, x, axis, half, 2 * half, like=node)
    return call(graph, aten.mul.Tensor, value, call(graph, aten.sigmoid.default, gate, like=node), like=node)


def filled(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A value in the place of some, by a mask."""
    x, mask, value = arguments(node)
    if not is_float(node):
        return None
    target = aten.where.self if isinstance(value, fx.Node) else aten.where.ScalarSelf
    return call(graph, target, mask, value, x, like=node)


def limited(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """Limits that are tensors; where they cross, the upper one wins, as in torch."""
    found = node_arg(node, "self")
    low = argument(node, "min") if callee(node) is not aten.clamp_max.Tensor else None
    high = argument(node, "max") if callee(node) is not aten.clamp_min.Tensor else None
    for limit, target in ((low, aten.maximum.default), (high, aten.minimum.default)):
        if limit is not None:
            found = call(graph, target, found, limit, like=node)
    return found


def random_slope(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Out of training it is the middle of those that were drawn."""
    if argument(node, "training"):
        return None
    slope = (float(argument(node, "lower")) + float(argument(node, "upper"))) / 2
    return call(graph, aten.leaky_relu.default, node.args[0], slope, like=node)


def blended(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """start + (end - start) * weight, by numbers as two products and a sum that is rounded once."""
    start, end, weight = arguments(node)
    if isinstance(weight, fx.Node):
        way = call(graph, aten.sub.Tensor, end, start, like=node)
        return call(graph, aten.add.Tensor, start, call(graph, aten.mul.Tensor, way, weight, like=node), like=node)
    kept = call(graph, aten.mul.Tensor, start, 1.0 - weight, like=node)
    return call(graph, aten.add.Tensor, kept, end, alpha=weight, like=node)


def added(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """A product or a quotient of two that is added to a third."""
    x, a, b = node.args[:3]
    target = aten.mul.Tensor if callee(node) is aten.addcmul.default else aten.div.Tensor
    both = call(graph, target, a, b, like=node)
    return call(graph, aten.add.Tensor, x, both, alpha=argument(node, "value"), like=node)


def renamed(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """The larger or smaller of two has two names."""
    target = aten.maximum.default if callee(node) is aten.max.other else aten.minimum.default
    return call(graph, target, *node.args, like=node)


def real_operands(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Whole numbers and truths among real ones become real ones."""
    if not is_float(node) or node.meta["val"].dtype is not torch.float32:
        return None
    operands = [a for a in node.args[:2] if isinstance(a, fx.Node) and not is_float(a)]
    if not operands:
        return None
    args = [
        call(graph, aten._to_copy.default, a, dtype=torch.float32, like=node) if a in operands else a for a in node.args
    ]
    return call(graph, callee(node), *args, like=node, **node.kwargs)


def bounded(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A function that makes a number of an infinite choice, e^-inf for one: the choice is made behind it, so that no
    range has to hold what is infinite. What it is given in that place is 0, which every range has."""
    chosen = node_arg(node, 0)
    if chosen.target not in (aten.where.ScalarSelf, aten.where.ScalarOther) or node.args[1:] or node.kwargs:
        return None
    condition, *choices = chosen.args
    place = 0 if chosen.target is aten.where.ScalarSelf else 1
    number = choices[place]
    if not isinstance(number, float) or not math.isinf(number):
        return None
    limit = float(callee(node)(torch.tensor(number)))
    if not math.isfinite(limit):
        return None
    at_zero = [0.0 if n == place else choice for n, choice in enumerate(choices)]
    inner = call(graph, callee(chosen), condition, *at_zero, like=chosen)
    values = call(graph, callee(node), inner, like=node)
    around = [limit if n == place else values for n in range(2)]
    return call(graph, callee(chosen), condition, *around, like=node)


def looked_up(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Rows of a table: another name of the same."""
    table, axis, index = arguments(node)
    if (
        not is_constant(table)
        or is_constant(index)
        or not is_float(table)
        or len(shape(table)) != 2
        or axis not in (0, -2)
    ):
        return None
    return call(graph, aten.embedding.default, table, index, like=node)


def masked(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A product with truths keeps a value or gives zero."""
    for mask, x in (node.args[:2], node.args[1::-1]):
        if (
            isinstance(mask, fx.Node)
            and mask.meta["val"].dtype is torch.bool
            and isinstance(x, fx.Node)
            and is_float(x)
        ):
            return call(graph, aten.where.ScalarOther, mask, x, 0.0, like=node)
    return None


def divided(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """By constants: a product with their reciprocals, which is a change of scale."""
    x, divisor = node.args[:2]
    if not isinstance(x, fx.Node) or not isinstance(divisor, fx.Node) or not is_float(x) or not is_float(divisor):
        return None
    if is_constant(x) or not is_constant(divisor):
        return None
    return call(graph, aten.mul.Tensor, x, call(graph, aten.reciprocal.default, divisor, like=node), like=node)


def softmax(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Over another axis than the last, which is moved there and back."""
    axis = int_arg(node, "dim") % max(1, len(shape(node)))
    if axis in (0, len(shape(node)) - 1):
        return None
    return moved(
        graph, node, axis, lambda x: call(graph, callee(node), x, -1, *node.args[2:], like=node, **node.kwargs)
    )


def log_softmax(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """The logarithm itself: that of a probability below 1/256 would be lost."""
    axis = int_arg(node, "dim") % max(1, len(shape(node)))
    if axis == 0 or node.meta["val"].dtype is not torch.float32:
        return None

    def rows(x: fx.Node) -> fx.Node:
        total = call(graph, aten.logsumexp.default, x, [-1], True, like=node)
        return call(graph, aten.sub.Tensor, x, total, like=node)

    return moved(graph, node, axis, rows)


def logsumexp(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Over one axis: moved to the end, and dropped afterwards where it does not stay."""
    ndim = len(shape(node_arg(node, 0)))
    axes, keep = [axis % ndim for axis in ints_arg(node, "dim")], bool(argument(node, "keepdim"))
    if len(axes) != 1 or axes == [0] or (axes == [ndim - 1] and keep):
        return None
    found = moved(graph, node, axes[0], lambda x: call(graph, aten.logsumexp.default, x, [-1], True, like=node))
    return found if keep else call(graph, aten.squeeze.dim, found, axes[0], like=node)


def moved(graph: fx.Graph, node: fx.Node, axis: int, rows: Callable[[fx.Node], fx.Node]) -> fx.Node:
    """`rows` of the first operand with `axis` at the end, and the axes back in their order."""
    x = node_arg(node, 0)
    order = [a for a in range(len(shape(x))) if a != axis] + [axis]
    return permuted(graph, rows(permuted(graph, x, order, node)), inverse(order), node)


def permuted(graph: fx.Graph, x: fx.Node, order: Sequence[int], node: fx.Node) -> fx.Node:
    """`x` with its axes in another order; itself where that is the same."""
    return x if list(order) == sorted(order) else call(graph, aten.permute.default, x, list(order), like=node)


def inverse(order: Sequence[int]) -> list[int]:
    """The order that undoes another."""
    return sorted(range(len(order)), key=order.__getitem__)


def first(*rewrites: Callable[[fx.Graph, fx.Node], fx.Node | None]) -> Callable[[fx.Graph, fx.Node], fx.Node | None]:
    """The first of several that applies."""

    def rewrite(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
        return next((found for each in rewrites if (found := each(graph, node)) is not None), None)

    return rewrite


# Functions that have limits where their operand grows beyond all bounds.
_LIMITED = (
    aten.exp.default,
    aten.exp2.default,
    aten.expm1.default,
    aten.sigmoid.default,
    aten.tanh.default,
    aten.erf.default,
    aten.relu.default,
    aten.softplus.default,
)

REWRITES: dict[Any, Callable[[fx.Graph, fx.Node], fx.Node | None]] = {
    aten.glu.default: gated,
    aten.masked_fill.Tensor: filled,
    aten.index_select.default: looked_up,
    **dict.fromkeys(_LIMITED, bounded),
    aten.rrelu.default: random_slope,
    **dict.fromkeys((aten.max.other, aten.min.other), renamed),
    **dict.fromkeys((aten.lerp.Scalar, aten.lerp.Tensor), blended),
    **dict.fromkeys((aten.addcmul.default, aten.addcdiv.default), added),
    **dict.fromkeys((aten.clamp.Tensor, aten.clamp_min.Tensor, aten.clamp_max.Tensor), limited),
    **dict.fromkeys((aten.add.Tensor, aten.sub.Tensor), real_operands),
    **dict.fromkeys((aten.softmax.int, aten._softmax.default), softmax),
    **dict.fromkeys((aten.log_softmax.int, aten._log_softmax.default), log_softmax),
    aten.logsumexp.default: logsumexp,
}
