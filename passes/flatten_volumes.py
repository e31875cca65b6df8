"""Convolutions and pooling over volumes as those over images: what lies behind each other in depth lies side by side.

conv3d(x, w, b), relu     =>   conv2d(slices(x), w', b), relu, and the slices of the result put behind each other
max_pool3d(x, 3)          =>   max_pool2d(x in height and width), max_pool2d(of that in depth)
avg_pool3d(x, 2)          =>   avg_pool2d(x, its rows in the order of windows)
adaptive_avg_pool3d(x, 1) =>   mean(x, [2, 3, 4])
conv_transpose3d(x, w, b) =>   conv_transpose2d(the slices that each slice of the result sums, w', b)
upsample_trilinear3d(x)   =>   upsample_bilinear2d(x in height and width), upsample_bilinear2d(of that in depth)

The depth of a kernel becomes channels: (out, in, d, h, w) weights are (out, in * d, h, w), in order: a sum stays one
sum and is rounded once. Averages over windows of several sizes and resizing go one after the other, rounded twice.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxquant.arguments import arguments, callee, ints_arg, node_arg
from fxquant.graph import add_constant, call, calls, clean, constant_value, replace, shape
from fxquant.moves import permuted, reshaped, take
from fxquant.ops.products import numbers
from fxquant.ops.table import Fusion, lookup
from fxquant.passmanager import Pass

aten = torch.ops.aten

Rewrite = Callable[[fx.GraphModule, fx.Node], fx.Node | None]


@dataclass(frozen=True)
class FlattenVolumes(Pass):
    """Convolutions and pooling over volumes as those over images."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Each rewrite gives the node's replacement, or None where it does not apply; functions of one value follow."""
        for node in calls(module.graph, *_REWRITES):
            with module.graph.inserting_before(node):
                replacement = _REWRITES[node.target](module, node)
            if replacement is not None:
                replace(node, replacement)
        return clean(module)


def _conv(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    graph = module.graph
    x, weight, bias, stride, padding, dilation, groups = arguments(node)
    if len(shape(x)) != 5 or weight.op != "get_attr":
        return None
    strides, pads, steps = (numbers(v, 3) for v in (stride, padding, dilation))
    taps = int(shape(weight)[2])
    images = _slices(graph, x, (taps, strides[0], pads[0], steps[0]), node)
    outs, ins, _, *kernel = (int(n) for n in shape(weight))
    flat = add_constant(module, constant_value(module, weight).reshape(outs, ins * taps, *kernel), f"{node.name}_flat")
    settings = strides[1:], pads[1:], steps[1:], groups
    if images is None:
        return None
    out = call(graph, aten.conv2d.default, images, flat, bias, *settings, like=node)
    return _stacked(graph, _with_curves(graph, out, node), list(shape(node)), node)


def _slices(graph: fx.Graph, x: fx.Node, window: tuple[int, int, int, int], node: fx.Node) -> fx.Node | None:
    """An image for each place in depth, the `taps` slices that are seen from there being its channels."""
    taps, stride, padding, dilation = window
    x = _padded(graph, x, [padding, 0, 0], node)
    batch, channels, depth, height, width = shape(x)
    places = (int(depth) - dilation * (taps - 1) - 1) // stride + 1
    positions = [at * stride + tap * dilation for at in range(places) for tap in range(taps)]
    apart = reshaped(graph, take(graph, x, 2, positions, node), [batch, channels, places, taps, height, width], node)
    if apart is None:
        return None
    ordered = permuted(graph, apart, [0, 2, 1, 3, 4, 5], node)
    return call(graph, aten.reshape.default, ordered, [-1, int(channels) * taps, int(height), int(width)], like=node)


def _padded(graph: fx.Graph, x: fx.Node, padding: list[int], node: fx.Node) -> fx.Node:
    """Zeros around a volume."""
    widths = [w for p in reversed(padding) for w in (p, p)]
    return call(graph, aten.constant_pad_nd.default, x, widths, 0.0, like=node) if any(widths) else x


def _stacked(graph: fx.Graph, images: fx.Node, sizes: list[Any], node: fx.Node) -> fx.Node | None:
    """The volume of a result that has an image for each place in depth."""
    batch, channels, depth, height, width = sizes
    apart = reshaped(graph, images, [batch, depth, channels, height, width], node)
    return apart and permuted(graph, apart, [0, 2, 1, 3, 4], node)


def _with_curves(graph: fx.Graph, out: fx.Node, node: fx.Node) -> fx.Node:
    """`out` with the functions of one value that follow `node`, so that they are rounded with its sums."""
    while len(node.users) == 1 and _is_curve(user := next(iter(node.users)), node):
        out = call(graph, callee(user), out, *user.args[1:], like=user, **user.kwargs)
        user.replace_all_uses_with(node)
        graph.erase_node(user)
    return out


def _is_curve(user: fx.Node, node: fx.Node) -> bool:
    record = lookup(user)
    alone = user.all_input_nodes == [node] and user.args[0] is node
    return alone and record is not None and record.fusion in (Fusion.CLAMP, Fusion.POINTWISE)


def _max_pool(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """In height and width, then in depth."""
    graph = module.graph
    x, kernel, stride, padding, dilation, ceil = arguments(node)
    if len(shape(x)) != 5:
        return None
    settings = [numbers(v, 3) for v in (kernel, stride or kernel, padding, dilation)]
    plane = (*(v[1:] for v in settings), ceil)
    deep = (*([v[0], one] for v, one in zip(settings, (1, 1, 0, 1), strict=True)), ceil)
    return _apart(graph, aten.max_pool2d.default, node, plane, lambda _: deep)


def _apart(
    graph: fx.Graph, target: Any, node: fx.Node, plane: tuple[Any, ...], deep: Callable[[int], tuple[Any, ...]]
) -> fx.Node | None:
    """`target` in height and width of all slices, then in depth: there the places of a slice are columns of an image.

    `plane` are its settings for the first, `deep` gives those for the second from the number of columns.
    """
    x = node_arg(node, 0)
    batch, channels, depth, height, width = shape(x)
    flat = reshaped(graph, x, [batch, channels * depth, height, width], node)
    if flat is None:
        return None
    found = call(graph, target, flat, *plane, like=node)
    columns = int(shape(found)[2]) * int(shape(found)[3])
    upright = reshaped(graph, found, [batch, channels, depth, columns], node)
    if upright is None:
        return None
    return reshaped(graph, call(graph, target, upright, *deep(columns), like=node), list(shape(node)), node)


def _avg_pool(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Rows of all slices of a window lie behind each other, so that one window of an image has them all."""
    graph = module.graph
    x, kernel, stride, padding, _, include, divisor = arguments(node)
    kernel, stride, padding = (numbers(v, 3) for v in (kernel, stride or kernel, padding))
    if len(shape(x)) != 5:
        return None
    counts = [int(n) for n in shape(node)[2:]]
    ends = [(n - 1) * s + k for n, s, k in zip(counts, stride, kernel, strict=True)]
    is_cut = any(end > int(n) + 2 * p for end, n, p in zip(ends, shape(x)[2:], padding, strict=True))
    if is_cut or (any(padding) and not include):
        return None if divisor else _avg_pool_apart(graph, node)
    x = _padded(graph, x, padding, node)
    for axis in (0, 1):
        positions = [at * stride[axis] + tap for at in range(counts[axis]) for tap in range(kernel[axis])]
        x = take(graph, x, 2 + axis, positions, node)
    batch, channels, *_, width = shape(x)
    apart = reshaped(graph, x, [batch, channels, counts[0], kernel[0], counts[1], kernel[1], width], node)
    if apart is None:
        return None
    rows = counts[1] * kernel[0] * kernel[1]
    ordered = permuted(graph, apart, [0, 1, 2, 4, 3, 5, 6], node)
    flat = call(graph, aten.reshape.default, ordered, [-1, int(channels) * counts[0], rows, int(width)], like=node)
    window = [kernel[0] * kernel[1], kernel[2]]
    settings = window, [window[0], stride[2]], [0, 0], False, True, divisor
    return reshaped(graph, call(graph, aten.avg_pool2d.default, flat, *settings, like=node), list(shape(node)), node)


def _avg_pool_apart(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Windows of several sizes: what a window divides by is the product of what its axes do."""
    _, kernel, stride, padding, ceil, include, _ = arguments(node)
    settings = [numbers(v, 3) for v in (kernel, stride or kernel, padding)]
    plane = (*(v[1:] for v in settings), ceil, include)
    deep = (*([v[0], one] for v, one in zip(settings, (1, 1, 0), strict=True)), ceil, include)
    return _apart(graph, aten.avg_pool2d.default, node, plane, lambda _: deep)


def _adaptive_avg_pool(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Over all places, or over windows that divide them."""
    graph = module.graph
    x, counts = node_arg(node, 0), ints_arg(node, "output_size")
    sizes = shape(x)[-3:]
    if all(n == 1 for n in counts):
        return call(graph, aten.mean.dim, x, [-3, -2, -1], True, like=node)
    if len(shape(x)) != 5:
        return None
    if any(int(n) % count for n, count in zip(sizes, counts, strict=True)):
        target = aten.adaptive_avg_pool2d.default
        return _apart(graph, target, node, (counts[1:],), lambda columns: ([counts[0], columns],))
    window = [int(n) // count for n, count in zip(sizes, counts, strict=True)]
    pooled = call(graph, aten.avg_pool3d.default, x, window, window, like=node)
    found = _avg_pool(module, pooled)
    graph.erase_node(pooled)
    return found


def _conv_transpose(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Slice o of the result sums, for each tap, slice i with i * stride + tap * dilation = o + padding, or zeros."""
    graph = module.graph
    x, weight, bias, stride, padding, extra, groups, dilation = arguments(node)
    if len(shape(x)) != 5 or weight.op != "get_attr":
        return None
    strides, pads, extras, steps = (numbers(v, 3) for v in (stride, padding, extra, dilation))
    ins, outs, taps, *kernel = (int(n) for n in shape(weight))
    batch, channels, depth, height, width = shape(x)
    places, positions = int(shape(node)[2]), []
    for place in range(places):
        for tap in range(taps):
            source, rest = divmod(place + pads[0] - tap * steps[0], strides[0])
            positions.append(source if rest == 0 and 0 <= source < int(depth) else int(depth))
    if int(depth) in positions:
        x = call(graph, aten.constant_pad_nd.default, x, [0, 0, 0, 0, 0, 1], 0.0, like=node)
    picked = take(graph, x, 2, positions, node)
    apart = reshaped(graph, picked, [batch, channels, places, taps, height, width], node)
    if apart is None:
        return None
    ordered = permuted(graph, apart, [0, 2, 1, 3, 4, 5], node)
    images = call(graph, aten.reshape.default, ordered, [-1, ins * taps, int(height), int(width)], like=node)
    # (in, out / groups, d, h, w) weights are (in * d, out / groups, h, w).
    flat = constant_value(module, weight).transpose(1, 2).reshape(ins * taps, outs, *kernel)
    named = add_constant(module, flat, f"{node.name}_flat")
    settings = strides[1:], pads[1:], extras[1:], groups, steps[1:]
    out = call(graph, aten.conv_transpose2d.input, images, named, bias, *settings, like=node)
    return _stacked(graph, _with_curves(graph, out, node), list(shape(node)), node)


def _trilinear(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """In height and width, then in depth. A length that stays is no interpolation, whatever the corners are."""
    x, size, corners, factors = arguments(node)
    if len(shape(x)) != 5:
        return None
    target = aten.upsample_bilinear2d.vec
    if factors is not None:
        plane, last = (None, corners, list(factors[1:])), (None, corners, [factors[0], 1.0])
        return _apart(module.graph, target, node, plane, lambda _: last)
    depth = int(shape(node)[2])
    return _apart(module.graph, target, node, (list(size[1:]), corners, None), lambda n: ([depth, n], corners, None))


_REWRITES: dict[Any, Rewrite] = {
    aten.conv3d.default: _conv,
    aten.conv_transpose3d.input: _conv_transpose,
    aten.upsample_trilinear3d.vec: _trilinear,
    aten.max_pool3d.default: _max_pool,
    aten.avg_pool3d.default: _avg_pool,
    aten.adaptive_avg_pool3d.default: _adaptive_avg_pool,
}
