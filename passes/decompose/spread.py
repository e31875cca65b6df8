"""The root of a mean square in a graph, however it is written: what a norm by hand divides by.

sqrt(mean(x ** 2, [1], True) + 1e-6), clamp_min(sqrt(sum(x ** 2, [1], True)), 1e-12)   =>   a Spread of x
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from fxquant.arguments import argument, float_arg, node_arg
from fxquant.graph import shape

aten = torch.ops.aten

# A least divisor that is no more than this changes nothing that could be seen.
GUARD = 1e-6


@dataclass(frozen=True)
class Spread:
    """sqrt(factor * mean(source^2) + eps) over `axes`, which stay; with a `sum` in the place of the mean."""

    source: fx.Node
    axes: tuple[int, ...]
    eps: float = 0.0
    factor: float = 1.0
    sum: bool = False


def spread_of(node: fx.Node, inverse: bool) -> Spread | None:
    """What `node`, or with `inverse` one over it, is the root of."""
    while node.target is aten.expand.default:
        node = node_arg(node, 0)
    if inverse:
        return _inverse(node)
    least = 0.0
    if node.target in (aten.clamp_min.default, aten.clamp.default) and _guards(node):
        node, least = node_arg(node, 0), float(argument(node, "min"))
    found = _squares(node_arg(node, 0)) if _is_power(node, 0.5, aten.sqrt.default) else None
    return found if found is None or not least else replace(found, eps=found.eps + least**2)


def centre_of(node: fx.Node, axes: tuple[int, ...]) -> fx.Node | None:
    """What the mean over `axes` is taken from, if that is what `node` is."""
    if node.target is not aten.sub.Tensor or argument(node, "alpha") != 1:
        return None
    x, mean = node.args[:2]
    is_mean = isinstance(mean, fx.Node) and mean.target is aten.mean.dim and mean.args[0] is x
    if not isinstance(x, fx.Node) or not isinstance(mean, fx.Node) or not is_mean:
        return None
    return x if argument(mean, "keepdim") and _axes(mean) == axes else None


def _inverse(node: fx.Node) -> Spread | None:
    if _is_power(node, -0.5, aten.rsqrt.default):
        return _squares(node_arg(node, 0))
    if node.target is aten.mul.Tensor and node.args[1] in (1, 1.0):
        return _inverse(node_arg(node, 0))
    return spread_of(node_arg(node, 0), False) if _is_power(node, -1, aten.reciprocal.default) else None


def _squares(node: fx.Node) -> Spread | None:
    """The mean or sum of squares that stands under the root, and what is added to it."""
    eps = 0.0
    if node.target is aten.add.Tensor and isinstance(node.args[1], (int, float)) and argument(node, "alpha") == 1:
        node, eps = node_arg(node, 0), float_arg(node, 1)
    if eps < 0.0 or not isinstance(node, fx.Node):
        return None
    factor = 1.0
    if node.target is aten.mul.Tensor and isinstance(node.args[1], (int, float)) and node.args[1] > 0:
        node, factor = node_arg(node, 0), float_arg(node, 1)
    if node.target not in (aten.mean.dim, aten.sum.dim_IntList) or not argument(node, "keepdim"):
        return None
    source = _root(node_arg(node, 0))
    return None if source is None else Spread(source, _axes(node), eps, factor, node.target is aten.sum.dim_IntList)


def _root(square: fx.Node) -> fx.Node | None:
    """What is squared."""
    if square.target is aten.mul.Tensor and square.args[0] is square.args[1]:
        return node_arg(square, 0)
    return node_arg(square, 0) if _is_power(square, 2, aten.square.default) else None


def _guards(node: fx.Node) -> bool:
    """Whether a clamp only keeps from division by zero: so little that it may as well be added below the root."""
    low, high = argument(node, "min"), node.target is aten.clamp.default and argument(node, "max")
    return isinstance(low, (int, float)) and 0 <= low <= GUARD and high in (None, False)


def _is_power(node: fx.Node, exponent: float, name: Any) -> bool:
    return node.target is name or (node.target is aten.pow.Tensor_Scalar and float_arg(node, 1) == exponent)


def _axes(node: fx.Node) -> tuple[int, ...]:
    ndim, axes = len(shape(node_arg(node, 0))), argument(node, "dim")
    several = axes if isinstance(axes, (list, tuple)) else [axes]
    return tuple(sorted(int(axis) % ndim for axis in several)) if axes not in (None, []) else tuple(range(ndim))
