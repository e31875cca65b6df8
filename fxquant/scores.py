"""What softmax can see of its scores, and of the masks that are added to them.

A mask says "not this one" by -10000, by the lowest float, or by minus infinity. None of these is a number whose place
in a range matters: a score that lies `VISIBLE` below the largest of its row has the probability 0 in every code. So the
range of scores ends there, and the range of a mask where nothing more can be seen behind it; what is lower is clamped,
to the very same probabilities.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxquant.arguments import argument, int_arg, ints_arg
from fxquant.graph import is_float, reads_values, shape

aten = torch.ops.aten

# 2^23 * e^-17 < 1/2: the powers that softmax adds up have at most 23 fractional bits.
VISIBLE = 17.0
# A number put in a score's place from which on it is meant to hide it, and hides it as well when it is added.
HIDING = -1e4

_SOFTMAX = (aten.softmax.int, aten._softmax.default)
_WITHIN_ROWS = (aten.reshape.default, aten.view.default, aten.unsqueeze.default, aten.expand.default)
_MOVES = (*_WITHIN_ROWS, aten.squeeze.dim, aten.squeeze.dims, aten.slice.Tensor, aten.select.int,
          aten.permute.default, aten.transpose.int)  # fmt: skip
_SCALINGS = (aten.mul.Tensor, aten.div.Tensor)


@dataclass(frozen=True)
class Span:
    """The part of a value's range that counts."""

    low: float
    high: float


def score_axes(graph: fx.Graph) -> dict[fx.Node, int]:
    """The values that nothing but softmax reads, each with its axis, counted from the end."""
    found: dict[fx.Node, int] = {}
    for node in reversed(graph.nodes):
        axes = {_axis(node, user, found) for user in node.users if reads_values(user) and is_float(node)}
        axis = axes.pop() if len(axes) == 1 else None
        if axis is not None:
            found[node] = axis
    return found


def _axis(node: fx.Node, user: fx.Node, found: Mapping[fx.Node, int]) -> int | None:
    if user.target in _SOFTMAX:
        ndim = len(shape(node))
        return int_arg(user, "dim") % ndim - ndim
    if user.target is aten.permute.default and user in found:
        axes = ints_arg(user, "dims")
        return axes[found[user]] % len(axes) - len(axes)
    # Moved, rows must stay rows.
    stays = user.target in _WITHIN_ROWS and str(shape(user)[-1:]) == str(shape(node)[-1:]) and found.get(user) == -1
    return found.get(user) if stays or user.op == "call_module" else None


def masks(graph: fx.Graph) -> set[fx.Node]:
    """The values that do nothing but move scores: moved, scaled, and added to them."""
    scores, found = score_axes(graph), set[fx.Node]()
    for node in reversed(graph.nodes):
        readers = [user for user in node.users if reads_values(user)]
        passes_on = (
            user.op == "call_module" or user.target in (*_MOVES, *_SCALINGS, aten.add.Tensor) for user in readers
        )
        if readers and node not in scores and all(passes_on) and all(u in scores or u in found for u in readers):
            found.add(node)
    return found


def spans(graph: fx.Graph, ranges: Mapping[fx.Node, Span]) -> dict[fx.Node, Span]:
    """For scores and for what is added to them: the span of their values that softmax can tell apart.

    `ranges` are the values' own, where they are known; those of scores end where softmax sees nothing more.
    """
    scores, found = score_axes(graph), dict[fx.Node, Span]()
    for node in reversed(graph.nodes):
        if node in scores and node in ranges:
            found[node] = ranges[node]
        elif node not in scores:
            parts = [_needed(node, user, found.get(user), ranges) for user in node.users if reads_values(user)]
            kept = [part for part in parts if part is not None]
            if kept and len(kept) == len(parts):
                found[node] = Span(min(p.low for p in kept), max(p.high for p in kept))
    return found


def _needed(node: fx.Node, user: fx.Node, span: Span | None, ranges: Mapping[fx.Node, Span]) -> Span | None:
    """What `user`, of which `span` counts, needs to know of `node`."""
    if span is None or user.op == "call_module" or user.target in _MOVES:
        return span
    if user.target in _SCALINGS:
        return _divided(span, user)
    if user.target is not aten.add.Tensor or argument(user, "alpha") != 1:
        return None
    a, b = argument(user, "self"), argument(user, "other")
    if a is b:
        return None
    other = b if a is node else a
    if not isinstance(other, fx.Node):
        return Span(span.low - other, span.high - other)
    # An operand that is never rounded by itself has no range: one as wide as the sum's, above it, is enough.
    most = ranges[other].high if other in ranges else 2 * span.high - span.low
    return Span(span.low - most, span.high)


def _divided(span: Span, scaling: fx.Node) -> Span | None:
    factor = argument(scaling, "other")
    if not isinstance(factor, (int, float)) or factor <= 0:
        return None
    factor = factor if scaling.target is aten.mul.Tensor else 1.0 / factor
    return Span(span.low / factor, span.high / factor)


@dataclass(frozen=True)
class Rows:
    """How the observer of scores looks at them: no lower than softmax sees, row by row along `axis`."""

    axis: int

    def __call__(self, x: Tensor) -> Tensor:
        """`x`, what softmax does not see raised to where it begins to; a row without a finite value is nothing."""
        top = x.amax(self.axis, keepdim=True)
        return torch.where(torch.isneginf(top), torch.zeros_like(x), torch.maximum(x, top - VISIBLE))


@dataclass(frozen=True)
class Finite:
    """How the observer of a mask looks at it: minus infinity is as good as the lowest number."""

    def __call__(self, x: Tensor) -> Tensor:
        """`x` without minus infinity."""
        return torch.where(torch.isneginf(x), torch.finfo(x.dtype).min, x)
