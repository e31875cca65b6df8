"""Rewrite operators that only move values as the few moves that have integer code.

roll(x, 1, 2)                      =>   cat([slice(x, 2, 7, 8), slice(x, 2, 0, 7)], 2)
index(x, [None, [2, 0, 3]])        =>   index_select(x, 1, positions)
pad(x, [1, 1], "reflect")          =>   index_select(x, 3, positions)
diagonal(x, 0, 1, 2)               =>   slice(reshape(x, [-1, 25]), 1, 0, 25, 6)
im2col(x, [2, 2])                  =>   reshape(permute(reshape(index_select(index_select(x)))))
slice_scatter(x, y, 1, 2, 4)       =>   cat([slice(x, 1, 0, 2), y, slice(x, 1, 4, 8)], 1)

Nobody writes down here what an operator means: it is run on the numbers of its operand's places, and what comes out
says where each value comes from. Where axes do not mix, it is taken axis by axis.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.arguments import arguments, int_arg, node_arg
from fxquant.graph import call, calls, clean, compute, constant_value, is_float, replace, shape
from fxquant.moves import has_free_batch, permuted, reshaped, spread, take
from fxquant.ops.table import is_foreign
from fxquant.passmanager import Pass

aten = torch.ops.aten

Rewrite = Callable[[fx.GraphModule, fx.Node], fx.Node | None]


@dataclass(frozen=True)
class RewriteMoves(Pass):
    """Rewrite operators that only move values as the few moves that have integer code."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Each rewrite gives the node's replacement, or None where places depend on data or on the batch."""
        for node in calls(module.graph, *_REWRITES):
            if not is_float(node) or is_foreign(node):
                continue
            with module.graph.inserting_before(node):
                replacement = _REWRITES[node.target](module, node)
            if replacement is not None:
                replace(node, replacement)
        return clean(module)


def _moved(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Any move of one operand, by what it does to the numbers of places."""
    x = node_arg(node, 0)
    places = _places(module, node)
    if places is None:
        return None
    by_axis = _by_axis(places, _sample(x))
    if by_axis is None:
        return _picked(module.graph, x, places, node)
    out = x
    for axis, positions in enumerate(by_axis, start=_first_axis(x)):
        out = take(module.graph, out, axis, positions, node)
    return out


def _places(module: fx.GraphModule, node: fx.Node) -> Tensor | None:
    """For each element of the result, of one sample or of a fixed batch, the place it comes from; 0 is none at all.

    Places of the operand count from 1. None where the result is not made of them alone, or not the same in each sample.
    """
    x = node_arg(node, 0)
    others = [n for n in node.all_input_nodes if n is not x]
    sizes = _sample(x)
    if any(isinstance(n, torch.SymInt) for n in sizes) or not all(map(_is_known, others)):
        return None
    samples, count = 1 + _first_axis(x), math.prod(sizes)
    ramp = torch.arange(1, samples * count + 1, dtype=torch.float64).reshape([samples] * _first_axis(x) + sizes)
    given = {x: ramp, **{other: _known(module, other, samples) for other in others}}
    try:
        found: Tensor = compute(node, given.__getitem__)
    except (RuntimeError, IndexError):  # of a batch of another size
        return None
    if samples == 1:
        return found.to(torch.int64)
    if found.ndim == 0 or len(found) != samples:
        return None
    first, second = found[0], found[1]
    is_apart = torch.equal(torch.where(first > 0, first + count, 0), second)
    return first.to(torch.int64) if is_apart and bool((first <= count).all()) else None


def _first_axis(x: fx.Node) -> int:
    """1 where the first axis is a free batch, else 0."""
    return int(has_free_batch(x))


def _sample(x: fx.Node) -> list[Any]:
    """The shape of one sample, or of all of a fixed batch."""
    return list(shape(x)[_first_axis(x) :])


def _is_known(node: fx.Node) -> bool:
    """Whether a value is a constant, or one for each sample."""
    return node.op == "get_attr" or (node.target is aten.expand.default and node_arg(node, 0).op == "get_attr")


def _known(module: fx.GraphModule, node: fx.Node, samples: int) -> Tensor:
    if node.op == "get_attr":
        return constant_value(module, node)
    sizes = [samples if isinstance(n, torch.SymInt) else int(n) for n in shape(node)]
    return constant_value(module, node_arg(node, 0)).expand(sizes)


def _by_axis(places: Tensor, sizes: Sequence[int]) -> list[list[int]] | None:
    """Positions along each axis, where an axis of the result only depends on the same axis of the operand."""
    if places.ndim != len(sizes) or not places.numel() or not bool((places > 0).all()):
        return None
    left, found = places - 1, list[list[int]]()
    for axis in reversed(range(len(sizes))):
        along, left = left % sizes[axis], left // sizes[axis]
        ahead = along.movedim(axis, -1).reshape(-1, along.shape[axis])
        if not bool((ahead == ahead[:1]).all()):
            return None
        found.insert(0, ahead[0].tolist())
    return found


def _picked(graph: fx.Graph, x: fx.Node, places: Tensor, node: fx.Node) -> fx.Node | None:
    """Element by element from the flattened operand; a zero stands before it where some come from nowhere."""
    free, sizes = _first_axis(x), _sample(x)
    flat = reshaped(graph, x, [-1 if free else 1, math.prod(sizes)], node)
    if flat is None or not places.numel():
        return None
    if bool((places == 0).any()):
        flat, places = call(graph, aten.constant_pad_nd.default, flat, [1, 0], 0.0, like=node), places + 1
    picked = take(graph, flat, 1, (places.flatten() - 1).tolist(), node)
    return reshaped(graph, picked, list(shape(node)), node)


def _unfolded(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The places of windows along both axes, windows and what is in them then put in order."""
    graph = module.graph
    x, kernel, dilation, padding, stride = arguments(node)
    if len(shape(x)) != 4:
        return _moved(module, node)
    widths = [padding[1], padding[1], padding[0], padding[0]]
    out = call(graph, aten.constant_pad_nd.default, x, widths, 0.0, like=node) if any(widths) else x
    batch, channels, *sizes = shape(out)
    counts = [(int(n) - d * (k - 1) - 1) // s + 1 for n, k, d, s in zip(sizes, kernel, dilation, stride, strict=True)]
    for axis in (0, 1):
        tap, start = range(kernel[axis]), range(counts[axis])
        positions = [s * stride[axis] + t * dilation[axis] for t in tap for s in start]
        out = take(graph, out, 2 + axis, positions, node)
    apart = reshaped(graph, out, [batch, channels, kernel[0], counts[0], kernel[1], counts[1]], node)
    return apart and reshaped(graph, permuted(graph, apart, [0, 1, 2, 4, 3, 5], node), list(shape(node)), node)


def _windows(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """The windows of one axis become an axis of their own, the last one."""
    graph, x, axis, size, step = module.graph, *arguments(node)
    axis %= len(shape(x))
    if isinstance(shape(x)[axis], torch.SymInt):
        return None
    count = (int(shape(x)[axis]) - size) // step + 1
    out = take(graph, x, axis, [s * step + t for s in range(count) for t in range(size)], node)
    apart = reshaped(graph, out, [*shape(x)[:axis], count, size, *shape(x)[axis + 1 :]], node)
    order = [place for place in range(len(shape(x)) + 1) if place != axis + 1]
    return apart and permuted(graph, apart, [*order, axis + 1], node)


def _turned(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    """Quarter turns: an axis backwards, and the two axes changed."""
    graph, x, quarters, axes = module.graph, *arguments(node)
    first, second = (axis % len(shape(x)) for axis in axes)
    order = list(range(len(shape(x))))
    order[first], order[second] = second, first
    flips = {1: [second], 2: [first, second], 3: [first]}.get(quarters % 4)
    out = call(graph, aten.flip.default, x, flips, like=node) if flips else x
    return permuted(graph, out, order, node) if quarters % 2 else out


def _written(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """A slice that was written: what lies before it, what is written, and what lies behind; or both picked from."""
    graph = module.graph
    (x, source), (axis, start, end, step) = [node_arg(node, 0), node_arg(node, 1)], arguments(node)[2:]
    axis %= len(shape(x))
    length = shape(x)[axis]
    if isinstance(length, torch.SymInt):
        return source if (start or 0) == 0 and step == 1 and str(shape(source)) == str(shape(x)) else None
    written = range(int(length))[slice(start, end, step)]
    if not written:
        return x
    if step == 1:
        before = take(graph, x, axis, range(written.start), node) if written.start else None
        behind = take(graph, x, axis, range(written.stop, length), node) if written.stop < length else None
        parts = [part for part in (before, source, behind) if part is not None]
        return parts[0] if len(parts) == 1 else call(graph, aten.cat.default, parts, axis, like=node)
    places = list(range(length))
    places[written.start : written.stop : step] = range(length, length + len(written))
    return take(graph, call(graph, aten.cat.default, [x, source], axis, like=node), axis, places, node)


def _written_place(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    graph = module.graph
    x, source, axis, place = arguments(node)
    axis %= len(shape(x))
    length = shape(x)[axis]
    if isinstance(length, torch.SymInt):
        return None
    thick, place = call(graph, aten.unsqueeze.default, source, axis, like=node), place % int(length)
    whole = call(graph, aten.slice_scatter.default, x, thick, axis, place, place + 1, 1, like=node)
    written = _written(module, whole)
    graph.erase_node(whole)
    return written


def _copied(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """What is copied, spread over the shape of what it is copied to."""
    target, source = node_arg(node, 0), node_arg(node, 1)
    if target.meta["val"].dtype != source.meta["val"].dtype:
        return None
    if str(shape(source)) == str(shape(node)):
        return source
    if any(isinstance(n, torch.SymInt) for n in shape(node)[1:]) or len(shape(source)) != len(shape(node)):
        return None
    same = str(shape(source)[0]) == str(shape(node)[0])
    if not same and isinstance(shape(node)[0], torch.SymInt):
        return None
    sizes = [-1 if same else int(shape(node)[0]), *(int(n) for n in shape(node)[1:])]
    return call(module.graph, aten.expand.default, source, sizes, like=node)


def _put(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Values that are written at constant places: picked from both side by side."""
    graph = module.graph
    x, indices, values, accumulate = arguments(node)
    free, count = _first_axis(x), math.prod(_sample(x)) if _first_axis(x) == 1 else 0
    if accumulate or not free or indices[0] is not None or not all(n is None or _is_known(n) for n in indices):
        return None
    each = has_free_batch(values)
    own = math.prod(_sample(values)) if each else values.meta["val"].numel()
    if not each and values.op != "get_attr":
        return None
    place = torch.arange(1, 2 * (count + own) + 1, dtype=torch.float64).reshape(2, -1)
    written = place[:, count:] if each else place[:1, count:]
    given = {x: place[:, :count].reshape(2, *_sample(x))}
    given |= {n: _known(module, n, 2) for n in indices if n is not None}
    given[values] = written.reshape(([2] if each else []) + [int(n) for n in _sample(values)])
    found: Tensor = compute(node, given.__getitem__)
    if not each:
        constant = constant_value(module, values).reshape(1, -1)
        values = spread(module, constant, node)
    parts = [call(graph, aten.reshape.default, part, [-1, n], like=node) for part, n in ((x, count), (values, own))]
    both = call(graph, aten.cat.default, parts, 1, like=node)
    picked = take(graph, both, 1, (found[0].flatten().to(torch.int64) - 1).tolist(), node)
    return reshaped(graph, picked, list(shape(node)), node)


def _padded(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Borders made of the image's own values."""
    return None if arguments(node)[2] == "constant" else _moved(module, node)


def _index(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """By lists that are constants; the batch, where it is free, is none of the axes."""
    first = arguments(node)[1][0]
    return None if first is not None and _first_axis(node_arg(node, 0)) else _moved(module, node)


def _over_an_axis(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    return None if int_arg(node, "dim") % len(shape(node)) < _first_axis(node_arg(node, 0)) else _moved(module, node)


_REWRITES: dict[Any, Rewrite] = {
    **dict.fromkeys(
        (
            aten.roll.default,
            aten.repeat.default,
            aten.tile.default,
            aten.repeat_interleave.self_int,
            aten.repeat_interleave.self_Tensor,
            aten.diagonal.default,
            aten.diagonal_copy.default,
            aten.diag_embed.default,
            aten.tril.default,
            aten.triu.default,
            aten.take.default,
            aten.pixel_shuffle.default,
            aten.pixel_unshuffle.default,
            aten.channel_shuffle.default,
            aten.reflection_pad1d.default,
            aten.reflection_pad2d.default,
            aten.reflection_pad3d.default,
            aten.replication_pad1d.default,
            aten.replication_pad2d.default,
            aten.replication_pad3d.default,
            aten._pad_circular.default,
            aten.upsample_nearest3d.vec,
            aten._upsample_nearest_exact1d.vec,
            aten._upsample_nearest_exact2d.vec,
            aten._upsample_nearest_exact3d.vec,
        ),
        _moved,
    ),
    aten.index.Tensor: _index,
    aten.index_select.default: _over_an_axis,
    aten.gather.default: _over_an_axis,
    aten.index_put.default: _put,
    aten.pad.default: _padded,
    aten.im2col.default: _unfolded,
    aten.unfold.default: _windows,
    aten.rot90.default: _turned,
    aten.slice_scatter.default: _written,
    aten.select_scatter.default: _written_place,
    aten.copy.default: _copied,
}
