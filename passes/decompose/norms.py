"""What `Decompose` makes of normalization: rows that layer_norm or rms_norm takes, and one affine step by channel.

group_norm(x, 4, g, b)                    =>   batch_norm(reshape(layer_norm(reshape(x, [N, 4, -1]))), g, b, 0, 1)
instance_norm(x)                          =>   the same with a group for each channel
layer_norm(x, [6, 6], w)                  =>   reshape(layer_norm(reshape(x, [..., 36]), [36], w))
x * rsqrt(mean(x ** 2, -1) + eps) * w     =>   rms_norm(x, [D], w, eps), and so with sums, roots, variances
(x - mean(x, 1)) / sqrt(var(x, 1) + eps)  =>   permute(layer_norm(permute(x), [C], eps))
x / clamp(norm(x, -1), eps)               =>   rms_norm(x, [D], 1 / sqrt(D), eps ** 2 / D)
norm(x, 2, 1)                             =>   sqrt(sum(x ** 2, 1))
std(x, 1)                                 =>   sqrt(mean((x - mean(x, 1)) ** 2, 1) * n / (n - 1))
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx

from fxquant.arguments import argument, arguments, callee, float_arg, ints_arg, node_arg
from fxquant.graph import call, is_constant, shape
from fxquant.passes.decompose.spread import Spread, centre_of, spread_of
from fxquant.passes.decompose.values import inverse, permuted

aten = torch.ops.aten

Rows = Callable[[fx.Node, int], fx.Node]


def group_norm(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Rows of a group's channels, then gamma and beta by channel."""
    x, groups, gamma, beta, eps = arguments(node)[:5]
    return _grouped(graph, node, x, int(groups), gamma, beta, float(eps))


def instance_norm(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A group for each channel; with statistics of training it is batch norm."""
    x, gamma, beta, mean, variance = arguments(node)[:5]
    eps = float_arg(node, "eps")
    if not argument(node, "use_input_stats"):
        return call(graph, aten.batch_norm.default, x, gamma, beta, mean, variance, False, 0.0, eps, False, like=node)
    return _grouped(graph, node, x, int(shape(x)[1]), gamma, beta, eps)


def _grouped(
    graph: fx.Graph, node: fx.Node, x: fx.Node, groups: int, gamma: Any, beta: Any, eps: float
) -> fx.Node | None:
    channels, sizes = shape(x)[1], _sizes(shape(x)[1:])
    if sizes is None:
        return None
    length = math.prod(sizes) // groups
    rows = call(graph, aten.reshape.default, x, [-1, groups, length], like=node)
    rows = call(graph, aten.layer_norm.default, rows, [length], None, None, eps, like=node)
    if gamma is None and beta is None:
        return call(graph, aten.reshape.default, rows, [-1, *sizes], like=node)
    # What has more axes than an image is scaled as a signal.
    some = sizes if len(sizes) < 4 else [sizes[0], math.prod(sizes[1:])]
    found = call(graph, aten.reshape.default, rows, [-1, *some], like=node)
    zeros, ones = (_filled(graph, int(channels), value, node) for value in (0.0, 1.0))
    found = call(graph, aten.batch_norm.default, found, gamma, beta, zeros, ones, False, 0.0, 0.0, False, like=node)
    return found if some == sizes else call(graph, aten.reshape.default, found, [-1, *sizes], like=node)


def _filled(graph: fx.Graph, length: int, value: float, node: fx.Node) -> fx.Node:
    return call(graph, aten.full.default, [length], value, dtype=torch.float32, like=node)


def layer_norm(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Several axes as one."""
    axes = ints_arg(node, "normalized_shape")
    ndim = len(shape(node))
    if len(axes) == 1:
        return None
    weights = [argument(node, name) for name in ("weight", "bias")[: 1 if callee(node) is aten.rms_norm.default else 2]]

    def rows(x: fx.Node, length: int) -> fx.Node:
        flat = [w if w is None else call(graph, aten.reshape.default, w, [length], like=node) for w in weights]
        return call(graph, callee(node), x, [length], *flat, argument(node, "eps"), like=node)

    return _over(graph, node, node_arg(node, 0), range(ndim - len(axes), ndim), rows)


def normalized(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A product or quotient by hand that divides a value by its own spread."""
    for numerator, other in (node.args[:2], node.args[1::-1]):
        inverted = callee(node) is aten.mul.Tensor
        found = spread_of(other, inverted) if isinstance(other, fx.Node) else None
        if found is not None and isinstance(numerator, fx.Node):
            if replacement := _by_spread(graph, node, numerator, found):
                return replacement
        if not inverted:
            break
    return None


def _by_spread(graph: fx.Graph, node: fx.Node, numerator: fx.Node, spread: Spread) -> fx.Node | None:
    """A value over its own spread; where that is the difference from a mean, over its standard deviation."""
    source, sizes = spread.source, _sizes([shape(spread.source)[axis] for axis in spread.axes])
    centre = centre_of(source, spread.axes)
    is_own = numerator is source or (centre is not None and centre_of(numerator, spread.axes) is centre)
    is_whole = str(shape(node)) == str(shape(source)) and numerator.meta["val"].dtype is torch.float32
    if sizes is None or not is_whole or not is_own:
        return None
    factor = spread.factor * (math.prod(sizes) if spread.sum else 1.0)

    def rows(x: fx.Node, length: int) -> fx.Node:
        weight = None if factor == 1.0 else _filled(graph, length, factor**-0.5, node)
        if centre is not None:
            return call(graph, aten.layer_norm.default, x, [length], weight, None, spread.eps / factor, like=node)
        return call(graph, aten.rms_norm.default, x, [length], weight, spread.eps / factor, like=node)

    return _over(graph, node, source if centre is None else centre, spread.axes, rows)


def affine(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Gamma and beta by hand, behind a norm that has none yet."""
    for norm, constant in (node.args[:2], node.args[1::-1]):
        if not isinstance(norm, fx.Node) or norm.target not in _ROWS or len(norm.users) != 1:
            continue
        if not isinstance(constant, fx.Node) or not is_constant(constant):
            continue
        length = shape(norm)[-1]
        is_row = constant.meta["val"].numel() == length
        if is_row and str(shape(constant)[-1:]) == str((length,)) and len(shape(constant)) <= len(shape(norm)):
            return _with_affine(graph, node, norm, constant)
    return None


def _with_affine(graph: fx.Graph, node: fx.Node, norm: fx.Node, constant: fx.Node) -> fx.Node | None:
    x, shape_, weight, *rest = arguments(norm)
    row = call(graph, aten.reshape.default, constant, list(shape_), like=node)
    if callee(node) is aten.mul.Tensor:
        if norm.target is aten.layer_norm.default and rest[0] is not None:
            return None
        weight = row if weight is None else call(graph, aten.mul.Tensor, weight, row, like=node)
    elif norm.target is aten.rms_norm.default or rest[0] is not None or argument(node, "alpha") != 1:
        return None
    else:
        rest[0] = row
    return call(graph, callee(norm), x, shape_, weight, *rest, like=norm)


def deviation(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A standard deviation or variance by its definition."""
    x, keep, axes = node_arg(node, 0), bool(argument(node, "keepdim")), argument(node, "dim")
    count = argument(node, "unbiased") if callee(node) in _UNBIASED else argument(node, "correction")
    ndim = len(shape(x))
    axes = [axis % ndim for axis in (axes if axes else range(ndim))]
    sizes = _sizes([shape(x)[axis] for axis in axes])
    free = 1.0 if count is None else float(count)
    if sizes is None or 0 in axes or math.prod(sizes) <= free:
        return None
    mean = call(graph, aten.mean.dim, x, axes, True, like=node)
    square = call(graph, aten.square.default, call(graph, aten.sub.Tensor, x, mean, like=node), like=node)
    found = call(graph, aten.mean.dim, square, axes, keep, like=node)
    found = call(graph, aten.mul.Tensor, found, math.prod(sizes) / (math.prod(sizes) - free), like=node)
    return call(graph, aten.sqrt.default, found, like=node) if callee(node) in _ROOTS else found


def vector_norm(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """The length of vectors by its definition."""
    x, order, axes, keep = node_arg(node, 0), argument(node, "ord"), argument(node, "dim"), argument(node, "keepdim")
    axes = axes if axes else list(range(len(shape(x))))
    if order not in (1, 2) or node.meta["val"].dtype is not torch.float32 or 0 in (a % len(shape(x)) for a in axes):
        return None
    part = call(graph, aten.abs.default if order == 1 else aten.square.default, x, like=node)
    found = call(graph, aten.sum.dim_IntList, part, axes, keep, like=node)
    return found if order == 1 else call(graph, aten.sqrt.default, found, like=node)


def _over(graph: fx.Graph, node: fx.Node, x: fx.Node, axes: Sequence[int], rows: Rows) -> fx.Node | None:
    """`rows` of x with `axes` at the end and merged, and everything back in its place."""
    ndim, axes = len(shape(x)), list(axes)
    order = [a for a in range(ndim) if a not in axes] + axes
    sizes, rest = _sizes([shape(x)[a] for a in axes]), _sizes([shape(x)[a] for a in order[1 : ndim - len(axes)]])
    if 0 in axes or sizes is None or rest is None:
        return None
    length, x = math.prod(sizes), permuted(graph, x, order, node)
    if len(axes) > 1:
        x = call(graph, aten.reshape.default, x, [-1, *rest, length], like=node)
    found = rows(x, length)
    if len(axes) > 1:
        found = call(graph, aten.reshape.default, found, [-1, *rest, *sizes], like=node)
    return permuted(graph, found, inverse(order), node)


def _sizes(sizes: Sequence[Any]) -> list[int] | None:
    """As numbers; None where one of them is free."""
    return None if any(isinstance(n, torch.SymInt) for n in sizes) else [int(n) for n in sizes]


_UNBIASED = (aten.std.dim, aten.var.dim)
_ROOTS = (aten.std.dim, aten.std.correction)
_ROWS = (aten.layer_norm.default, aten.rms_norm.default)

REWRITES: dict[Any, Callable[[fx.Graph, fx.Node], fx.Node | None]] = {
    aten.group_norm.default: group_norm,
    aten.instance_norm.default: instance_norm,
    **dict.fromkeys(_ROWS, layer_norm),
    **dict.fromkeys((*_UNBIASED, *_ROOTS, aten.var.correction), deviation),
    aten.linalg_vector_norm.default: vector_norm,
}
