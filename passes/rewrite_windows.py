"""Rewrite pooling, extremes and borders of every spelling as those that have integer code.

getitem(max(x, 1), 0)                      =>   amax(x, [1])
getitem(max_pool2d_with_indices(x, 2), 0)  =>   max_pool2d(x, 2)
adaptive_max_pool2d(x, [3, 3])[0]          =>   max_pool2d(index_select(index_select(x)), 4): windows of one size
sign(p) * relu(abs(p))                     =>   p, as an Lp pool has it
pad(x, [1, 1], value=2.0)                  =>   cat([border, x, border], 3)
pad(x, [1, 1], value=-inf), max_pool2d     =>   a border of the lowest number, which is never the largest
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxquant.arguments import argument, arguments, int_arg, ints_arg, node_arg
from fxquant.graph import absorb, add_constant, call, calls, clean, replace, shape
from fxquant.moves import has_free_batch, spread, take
from fxquant.ops.table import is_foreign
from fxquant.passmanager import Pass

aten = torch.ops.aten

Rewrite = Callable[[fx.GraphModule, fx.Node], fx.Node | None]

_ADAPTIVE = (aten.adaptive_max_pool1d.default, aten.adaptive_max_pool2d.default, aten.adaptive_max_pool3d.default)
_WITH_INDICES = {
    aten.max_pool1d_with_indices.default: aten.max_pool1d.default,
    aten.max_pool2d_with_indices.default: aten.max_pool2d.default,
    aten.max_pool3d_with_indices.default: aten.max_pool3d.default,
}
_MAX_POOLS = tuple(_WITH_INDICES.values())
_EXTREMES = {aten.max.dim: aten.amax.default, aten.min.dim: aten.amin.default}
_LOWEST = torch.finfo(torch.float32).min


@dataclass(frozen=True)
class RewriteWindows(Pass):
    """Rewrite pooling, extremes and borders of every spelling as those that have integer code."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Each rewrite gives the node's replacement, or None where it does not apply."""
        for node in calls(module.graph, *_REWRITES):
            if is_foreign(node):
                continue
            with module.graph.inserting_before(node):
                replacement = _REWRITES[node.target](module, node)
            if replacement is not None:
                replace(node, replacement)
        return clean(module)


def _values(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The values of a call that gives their places as well, which nobody reads."""
    both = node_arg(node, 0)
    if node.args[1] != 0 or not isinstance(both.meta.get("val"), (tuple, list)):
        return None
    found = _values_of(module, both)
    if found is not None:
        absorb(found, both)
    return found


def _values_of(module: fx.GraphModule, both: fx.Node) -> fx.Node | None:
    graph = module.graph
    if both.target in _WITH_INDICES:
        return call(graph, _WITH_INDICES[both.target], *arguments(both), like=both)
    if both.target in _EXTREMES:
        x, axis, keep = arguments(both)
        return call(graph, _EXTREMES[both.target], x, [axis] if shape(x) else [], keep, like=both)
    return _adaptive(graph, both) if both.target in _ADAPTIVE else None


def _adaptive(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Windows as torch splits an axis; of a shorter one the last place is taken twice, which no maximum sees."""
    x, sizes = node_arg(node, 0), ints_arg(node, "output_size")
    kernel, out, first = [], x, len(shape(x)) - len(sizes)
    for axis, count in enumerate(sizes, start=first):
        length = shape(x)[axis]
        if isinstance(length, torch.SymInt):
            return None
        ends = [(i * length // count, -(-(i + 1) * length // count)) for i in range(count)]
        kernel.append(max(end - start for start, end in ends))
        positions = [min(start + t, end - 1) for start, end in ends for t in range(kernel[-1])]
        out = take(graph, out, axis, positions, node)
    if first == 0:
        return None
    return call(graph, _MAX_POOLS[len(sizes) - 1], out, kernel, kernel, like=node)


def _extreme_of_all(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    target = aten.amax.default if node.target is aten.max.default else aten.amin.default
    x = node_arg(node, 0)
    return call(module.graph, target, x, list(range(len(shape(x)))), like=node)


def _mean_of_all(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    x, dtype = node_arg(node, 0), argument(node, "dtype")
    axes = list(range(len(shape(x))))
    return call(module.graph, aten.mean.dim, x, axes, like=node) if dtype is None and axes else None


def _signed_magnitude(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """sign(p) * relu(abs(p)) is p."""
    parts = {n.target: n for n in arguments(node)[:2] if isinstance(n, fx.Node)}
    sign, magnitude = parts.get(aten.sign.default), parts.get(aten.relu.default)
    if sign is None or magnitude is None:
        return None
    absolute, source = node_arg(magnitude, 0), node_arg(sign, 0)
    return source if absolute.target is aten.abs.default and absolute.args[0] is source else None


def _bordered(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A border of a number: copies of it beside the image; of the lowest one where nothing but maxima reads it."""
    x, (_, widths, *_, value) = node_arg(node, 0), arguments(node)
    if not value or (node.target is aten.pad.default and argument(node, "mode") != "constant"):
        return None
    if value <= _LOWEST and all(user.target in _MAX_POOLS for user in node.users):
        is_seen = all(_sees_inside(user, widths) for user in node.users)
        lowest = (x, widths, _LOWEST)
        return call(module.graph, aten.constant_pad_nd.default, *lowest, like=node) if is_seen else None
    if math.isinf(value):
        return None
    out = x
    for axis, (before, after) in zip(range(len(shape(x)) - 1, -1, -1), _pairs(widths), strict=False):
        if min(before, after) < 0 or (axis == 0 and before + after):
            return None
        parts = [_border(module, out, axis, before, value, node), out, _border(module, out, axis, after, value, node)]
        kept = [part for part in parts if part is not None]
        out = out if len(kept) == 1 else call(module.graph, aten.cat.default, kept, axis, like=node)
    return out


def _pairs(widths: list[int]) -> Iterator[tuple[int, int]]:
    """Before and after, of the last axis first."""
    return zip(widths[::2], widths[1::2], strict=True)


def _sees_inside(pool: fx.Node, widths: list[int]) -> bool:
    """Whether every window has a place of the image in it: none lies in the border alone, or in that of the pool."""
    kernel, padding = ints_arg(pool, "kernel_size"), ints_arg(pool, "padding")
    if any(d != 1 for d in ints_arg(pool, "dilation")) or int_arg(pool, "ceil_mode"):
        return False
    ahead = zip(reversed(kernel), reversed(padding), _pairs(widths), strict=False)
    return len(widths) <= 2 * len(kernel) and all(max(pair) + pad < size for size, pad, pair in ahead)


def _border(module: fx.GraphModule, x: fx.Node, axis: int, width: int, value: float, node: fx.Node) -> fx.Node | None:
    """`width` places of a number along an axis of what has the shape of `x` otherwise."""
    if not width:
        return None
    sizes = [width if place == axis else n for place, n in enumerate(shape(x))]
    tensor = torch.full([1 if isinstance(n, torch.SymInt) else n for n in sizes], value, dtype=node.meta["val"].dtype)
    return spread(module, tensor, node) if has_free_batch(x) else add_constant(module, tensor, f"{node.name}_border")


_REWRITES: dict[Any, Rewrite] = {
    operator.getitem: _values,
    aten.max.default: _extreme_of_all,
    aten.min.default: _extreme_of_all,
    aten.mean.default: _mean_of_all,
    aten.mul.Tensor: _signed_magnitude,
    aten.pad.default: _bordered,
    aten.constant_pad_nd.default: _bordered,
}
