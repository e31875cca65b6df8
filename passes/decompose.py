"""Rewrite composite operators as the few that the op table knows.

scaled_dot_product_attention(q, k, v)   =>   matmul(softmax(matmul(q, k^T) * scale + mask), v)
split(x, n)[i], unbind(x)[i]            =>   slice(x), select(x)
stack([x, y], 1)                        =>   cat([unsqueeze(x, 1), unsqueeze(y, 1)], 1)
addmm(b, x, w)                          =>   linear(x, w^T, b), and sums of their own where factors are not 1
view(x, [batch, 8]), flatten(x, 1)      =>   reshape(x, [-1, 8])
conv2d(x, w, b, padding="same")         =>   conv2d(pad(x), w, b), the padding in the convolution where it can be
conv2d(x, w, b), x an image alone       =>   squeeze(conv2d(unsqueeze(x), w, b)), and so for every kind of window
masked_fill(scores, m, -inf)            =>   add(scores, where(m, -inf, 0)), which is the same to softmax
channel_shuffle(x, 2), pixel_shuffle    =>   reshape(permute(reshape(x)))
"""

from __future__ import annotations

import math
import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxquant.arguments import arguments, callee, int_arg, node_arg, nodes_arg
from fxquant.graph import absorb, call, calls, clean, constant_value, is_constant, replace, shape
from fxquant.passmanager import Pass
from fxquant.scores import HIDING, score_axes

aten = torch.ops.aten

Rewrite = Callable[[fx.Graph, fx.Node], fx.Node | None]


@dataclass(frozen=True)
class Decompose(Pass):
    """Rewrite composite operators as the few that the op table knows."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Each rewrite gives the node's replacement, or None where it does not apply."""
        for node in calls(module.graph, *_REWRITES):
            with module.graph.inserting_before(node):
                replacement = _REWRITES[node.target](module.graph, node)
            if replacement is not None:
                replace(node, replacement)
        return clean(module)


def _attention(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    q, k, v, mask, dropout, causal, scale, grouped = arguments(node)
    if dropout or isinstance(scale, fx.Node):
        return None
    (*batch, length, width), rows = shape(q), None
    if causal:
        mask = _later_tokens(graph, length, shape(k)[-2], node)
        if mask is None:
            return None
    if grouped and batch[-1] != shape(k)[-3]:
        # Heads that share their keys become more rows of one head, so that nothing is copied.
        rows, heads = [*batch, length], shape(k)[-3]
        q = _reshaped(graph, q, [*batch[:-1], heads, batch[-1] // heads * length, width], node)
        if q is None:
            return None
    transposed = call(graph, aten.transpose.int, k, -2, -1, like=node)
    scores = call(graph, aten.matmul.default, q, transposed, like=node)
    factor = 1.0 / math.sqrt(int(width)) if scale is None else scale
    scores = call(graph, aten.mul.Tensor, scores, factor, like=node)
    masked = scores if mask is None else _masked(graph, scores, mask, rows, node)
    if masked is None:
        return None
    weights = call(graph, aten.softmax.int, masked, -1, like=node)
    mixed = call(graph, aten.matmul.default, weights, v, like=node)
    return mixed if rows is None else _reshaped(graph, mixed, [*rows, shape(v)[-1]], node)


def _masked(graph: fx.Graph, scores: fx.Node, mask: fx.Node, rows: list[Any] | None, node: fx.Node) -> fx.Node | None:
    """The scores, minus infinity where the mask says so; a boolean one says who takes part, and is no number."""
    if mask.meta["val"].dtype is torch.bool:
        mask = call(graph, aten.where.Scalar, mask, 0.0, -math.inf, like=node)
    if rows is None:
        return call(graph, aten.add.Tensor, scores, mask, like=node)
    apart = _reshaped(graph, scores, [*rows, shape(scores)[-1]], node)
    if apart is None:
        return None
    return _reshaped(graph, call(graph, aten.add.Tensor, apart, mask, like=node), list(shape(scores)), node)


def _filled(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Scores of which some are replaced by next to minus infinity: as well that is added to them, from a mask."""
    x, condition, value = arguments(node)
    if x.target in _ZEROS and str(shape(x)) == str(shape(condition)) and node.meta["val"].dtype is torch.float32:
        return call(graph, aten.where.Scalar, condition, value, 0.0, like=node)
    if not _hides(node, value):
        return None
    mask = call(graph, aten.where.Scalar, condition, value, 0.0, like=node)
    return call(graph, aten.add.Tensor, x, mask, like=node)


def _chosen(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    condition, x, value = arguments(node)
    if isinstance(value, fx.Node) and value.op == "get_attr" and not shape(value) and graph.owning_module:
        value = float(constant_value(graph.owning_module, value))
    if not isinstance(x, fx.Node) or not _hides(node, value):
        return None
    mask = call(graph, aten.where.Scalar, condition, 0.0, value, like=node)
    return call(graph, aten.add.Tensor, x, mask, like=node)


def _hides(node: fx.Node, value: Any) -> bool:
    is_hiding = isinstance(value, (int, float)) and value <= HIDING and node.meta["val"].dtype is torch.float32
    return is_hiding and node in score_axes(node.graph)


def _later_tokens(graph: fx.Graph, length: Any, keys: Any, node: fx.Node) -> fx.Node | None:
    """The mask of attention to earlier tokens; FoldConstants computes it. None where the lengths are free."""
    if isinstance(length, torch.SymInt) or isinstance(keys, torch.SymInt):
        return None
    all_hidden = call(graph, aten.full.default, [length, keys], -math.inf, like=node)
    return call(graph, aten.triu.default, all_hidden, 1, like=node)


def _item(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    several = node_arg(node, 0)
    if several.target in _AT_LEAST:
        return _reshaped(graph, nodes_arg(several, 0)[int_arg(node, 1)], list(shape(node)), node)
    if several.target not in _SPLITS:
        return None
    source, axis = several.args[0], int_arg(several, "dim")
    index = int_arg(node, 1) % len(several.meta["val"])
    if several.target is aten.unbind.int:
        return _part(call(graph, aten.select.int, source, axis, index, like=node), several)
    sizes = [int(part.shape[axis]) for part in several.meta["val"]]
    start = sum(sizes[:index])
    return _part(call(graph, aten.slice.Tensor, source, axis, start, start + sizes[index], like=node), several)


def _part(node: fx.Node, several: fx.Node) -> fx.Node:
    absorb(node, several)
    return node


# Of the constructions that give zeros.
_ZEROS = (aten.zeros_like.default, aten.new_zeros.default, aten.zeros.default)
_AT_LEAST = (aten.atleast_1d.Sequence, aten.atleast_2d.Sequence, aten.atleast_3d.Sequence)
_SPLITS = (aten.unbind.int, aten.split.Tensor, aten.unsafe_split.Tensor, aten.split_with_sizes.default,
           aten.unsafe_split_with_sizes.default, aten.chunk.default, aten.unsafe_chunk.default)  # fmt: skip


def _mm(graph: fx.Graph, node: fx.Node) -> fx.Node:
    x, w = arguments(node)
    return _product(graph, x, w, None, node)


def _addmm(graph: fx.Graph, node: fx.Node) -> fx.Node:
    bias, x, w, beta, alpha = arguments(node)
    if alpha == beta == 1 and is_constant(bias) and is_constant(w) and len(shape(bias)) == 1:
        return _product(graph, x, w, bias, node)
    return _scaled_sum(graph, _product(graph, x, w, None, node), bias, beta, alpha, node)


def _baddbmm(graph: fx.Graph, node: fx.Node) -> fx.Node:
    added, x, w, beta, alpha = arguments(node)
    return _scaled_sum(graph, call(graph, aten.bmm.default, x, w, like=node), added, beta, alpha, node)


def _product(graph: fx.Graph, x: fx.Node, w: fx.Node, bias: fx.Node | None, node: fx.Node) -> fx.Node:
    if not is_constant(w):
        return call(graph, aten.matmul.default, x, w, like=node)
    return call(graph, aten.linear.default, x, call(graph, aten.transpose.int, w, 0, 1, like=node), bias, like=node)


def _scaled_sum(graph: fx.Graph, product: fx.Node, added: fx.Node, beta: Any, alpha: Any, node: fx.Node) -> fx.Node:
    """product * alpha + added * beta; a `beta` of 0 leaves `added` out, whatever it holds."""
    if alpha != 1:
        product = call(graph, aten.mul.Tensor, product, alpha, like=node)
    return call(graph, aten.add.Tensor, product, added, alpha=beta, like=node) if beta else product


def _view(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A size computed from the batch becomes -1, so that no shape arithmetic is left in the graph."""
    source, sizes = arguments(node)
    free = [i for i, size in enumerate(sizes) if isinstance(size, fx.Node)]
    if len(free) > 1:
        return None
    # The others as they came out: a -1 among them would be one too many.
    result = node.meta["val"].shape if free else sizes
    fixed = [-1 if i in free else int(size) for i, size in enumerate(result)]
    return call(graph, aten.reshape.default, source, fixed, like=node)


def _flatten(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    return _reshaped(graph, node_arg(node, "self"), list(shape(node)), node)


def _reshaped(graph: fx.Graph, x: fx.Node, sizes: list[Any], node: fx.Node) -> fx.Node | None:
    """`x` in another shape, one free size becoming -1; None where there are several."""
    fixed = [-1 if isinstance(n, torch.SymInt) else int(n) for n in sizes]
    return call(graph, aten.reshape.default, x, fixed, like=node) if fixed.count(-1) <= 1 else None


def _batch_size(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """The batch is asked of an input, so that no later value is kept alive for its size."""
    for source in graph.find_nodes(op="placeholder"):
        sizes = source.meta["val"].shape
        if source is node.args[0] or not len(sizes) or str(sizes[0]) != str(node.meta["val"]):
            continue
        with graph.inserting_after(source):
            return call(graph, aten.sym_size.int, source, 0, like=node)
    return None


def _padding_in_words(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """ "valid" is none at all; "same" is the reach of the kernel, an odd one with its larger half after the image."""
    x, weight, bias, stride, padding, dilation, groups = arguments(node)
    kernel = [int(n) for n in weight.meta["val"].shape[2:]]
    strides, steps = ([v] * len(kernel) if isinstance(v, int) else list(v) for v in (stride, dilation))
    reach = [(n - 1) * d if padding == "same" else 0 for n, d in zip(kernel, steps, strict=True)]
    before = [r // 2 for r in reach]
    if any(r % 2 for r in reach):
        widths = [w for r in reversed(reach) for w in (0, r % 2)]
        x = call(graph, aten.constant_pad_nd.default, x, widths, like=node)
    target = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)[len(kernel) - 1]
    numeric = call(graph, target, x, weight, bias, strides, before, steps, groups, like=node)
    return _unbatched(graph, numeric) or numeric


# Axes that a window slides over.
_WINDOWS: dict[Any, int] = {
    aten.conv1d.default: 1,
    aten.conv2d.default: 2,
    aten.conv3d.default: 3,
    aten.conv_transpose1d.default: 1,
    aten.conv_transpose2d.input: 2,
    aten.conv_transpose3d.input: 3,
    aten.max_pool1d.default: 1,
    aten.max_pool2d.default: 2,
    aten.max_pool3d.default: 3,
    aten.avg_pool1d.default: 1,
    aten.avg_pool2d.default: 2,
    aten.avg_pool3d.default: 3,
    aten.adaptive_avg_pool1d.default: 1,
    aten.adaptive_avg_pool2d.default: 2,
    aten.adaptive_avg_pool3d.default: 3,
}


def _unbatched(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Primitives take the first axis for the batch; what has none is a batch of one."""
    x = node_arg(node, 0)
    if x.meta["val"].ndim != _WINDOWS[node.target] + 1:
        return None
    batch = call(graph, aten.unsqueeze.default, x, 0, like=node)
    result = call(graph, callee(node), batch, *node.args[1:], like=node, **node.kwargs)
    return call(graph, aten.squeeze.dim, result, 0, like=node)


def _joined(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A part without elements adds nothing, as the cache of a decoder before its first step."""
    parts, axis = nodes_arg(node, "tensors"), int_arg(node, "dim")
    kept = [part for part in parts if shape(part)[axis if len(shape(part)) == len(shape(node)) else 0] != 0]
    if not kept or len(kept) == len(parts):
        return None
    return kept[0] if len(kept) == 1 else call(graph, aten.cat.default, kept, axis, like=node)


def _stacked(graph: fx.Graph, node: fx.Node) -> fx.Node:
    axis = int_arg(node, "dim") % len(shape(node))
    parts = [call(graph, aten.unsqueeze.default, part, axis, like=node) for part in nodes_arg(node, "tensors")]
    return call(graph, aten.cat.default, parts, axis, like=node)


def _channel_shuffle(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    source, groups = node_arg(node, 0), int_arg(node, 1)
    channels, *rest = (int(n) for n in source.meta["val"].shape[1:])
    return _shuffled(graph, node, [groups, channels // groups, *rest], [1, 0, *range(2, 2 + len(rest))])


def _pixel_shuffle(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    if len(node.meta["val"].shape) != 4:
        return None
    factor = int_arg(node, 1)
    channels, height, width = (int(n) for n in node.meta["val"].shape[1:])
    split = [channels, factor, factor, height // factor, width // factor]
    return _shuffled(graph, node, split, [0, 3, 1, 4, 2])


def _pixel_unshuffle(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    if len(node.meta["val"].shape) != 4:
        return None
    factor = int_arg(node, 1)
    channels, height, width = (int(n) for n in node.meta["val"].shape[1:])
    split = [channels // factor**2, height, factor, width, factor]
    return _shuffled(graph, node, split, [0, 2, 4, 1, 3])


def _shuffled(graph: fx.Graph, node: fx.Node, split: list[int], order: list[int]) -> fx.Node:
    """All axes but the batch split, permuted, and merged into the shape of the result."""
    apart = call(graph, aten.reshape.default, node_arg(node, 0), [-1, *split], like=node)
    moved = call(graph, aten.permute.default, apart, [0, *(axis + 1 for axis in order)], like=node)
    merged = [-1, *(int(n) for n in node.meta["val"].shape[1:])]
    return call(graph, aten.reshape.default, moved, merged, like=node)


_REWRITES: dict[Any, Rewrite] = {
    **dict.fromkeys(_WINDOWS, _unbatched),
    aten.conv1d.padding: _padding_in_words,
    aten.conv2d.padding: _padding_in_words,
    aten.conv3d.padding: _padding_in_words,
    aten.masked_fill.Scalar: _filled,
    aten.where.ScalarOther: _chosen,
    aten.where.self: _chosen,
    aten.cat.default: _joined,
    aten.stack.default: _stacked,
    aten.channel_shuffle.default: _channel_shuffle,
    aten.pixel_shuffle.default: _pixel_shuffle,
    aten.pixel_unshuffle.default: _pixel_unshuffle,
    aten.sym_size.int: _batch_size,
    aten.flatten.using_ints: _flatten,
    aten.scaled_dot_product_attention.default: _attention,
    operator.getitem: _item,
    aten.mm.default: _mm,
    aten.addmm.default: _addmm,
    aten.baddbmm.default: _baddbmm,
    aten.view.default: _view,
    aten._unsafe_view.default: _view,
    aten.reshape.default: _view,
}
