"""Convolutions and pooling over volumes as those over images: what lies behind each other in depth lies side by side.

conv3d(x, w, b), relu     =>   conv2d(slices(x), w', b), relu, and the slices of the result put behind each other
max_pool3d(x, 3)          =>   max_pool2d(x in height and width), max_pool2d(of that in depth)
avg_pool3d(x, 2)          =>   avg_pool2d(x, its rows in the order of windows)
adaptive_avg_pool3d(x, 1) =>   mean(x, [2, 3, 4])

The depth of a kernel becomes channels: (out, in, d, h, w) weights are (out, in * d, h, w), in order: a sum stays one
sum and is rounded once.
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
    batch, channels, depth, height, width = shape(x)
    flat = reshaped(graph, x, [batch, channels * depth, height, width], node)
    if flat is None:
        return None
    pooled = call(graph, aten.max_pool2d.default, flat, *(v[1:] for v in settings), ceil, like=node)
    rows, columns = shape(pooled)[2:]
    deep = reshaped(graph, pooled, [batch, channels, depth, rows * columns], node)
    neutral = zip(settings, (1, 1, 0, 1), strict=True)
    pooled = call(graph, aten.max_pool2d.default, deep, *([v[0], one] for v, one in neutral), ceil, like=node)
    return reshaped(graph, pooled, list(shape(node)), node)


def _avg_pool(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Rows of all slices of a window lie behind each other, so that one window of an image has them all."""
    graph = module.graph
    x, kernel, stride, padding, _, include, divisor = arguments(node)
    kernel, stride, padding = (numbers(v, 3) for v in (kernel, stride or kernel, padding))
    if len(shape(x)) != 5 or (any(padding) and not include):
        return None
    x = _padded(graph, x, padding, node)
    counts = [int(n) for n in shape(node)[2:]]
    ends = [(n - 1) * s + k for n, s, k in zip(counts, stride, kernel, strict=True)]
    if any(end > int(n) for end, n in zip(ends, shape(x)[2:], strict=True)):
        return None  # windows that are cut at the end
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


def _adaptive_avg_pool(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    """Over all places, or over windows that divide them."""
    graph = module.graph
    x, counts = node_arg(node, 0), ints_arg(node, "output_size")
    sizes = shape(x)[-3:]
    if all(n == 1 for n in counts):
        return call(graph, aten.mean.dim, x, [-3, -2, -1], True, like=node)
    if len(shape(x)) != 5 or any(int(n) % count for n, count in zip(sizes, counts, strict=True)):
        return None
    window = [int(n) // count for n, count in zip(sizes, counts, strict=True)]
    pooled = call(graph, aten.avg_pool3d.default, x, window, window, like=node)
    found = _avg_pool(module, pooled)
    graph.erase_node(pooled)
    return found


_REWRITES: dict[Any, Rewrite] = {
    aten.conv3d.default: _conv,
    aten.max_pool3d.default: _max_pool,
    aten.avg_pool3d.default: _avg_pool,
    aten.adaptive_avg_pool3d.default: _adaptive_avg_pool,
}
