"""Attention, and the masks that hide scores from softmax.

scaled_dot_product_attention(q, k, v)   =>   matmul(softmax(matmul(q, k^T) * scale + mask), v)
masked_fill(scores, m, -inf)            =>   add(scores, where(m, -inf, 0)), which is the same to softmax
"""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxquant.arguments import arguments
from fxquant.graph import call, constant_value, shape
from fxquant.passes.decompose.shapes import reshaped
from fxquant.scores import HIDING, score_axes

aten = torch.ops.aten

# Of the constructions that give zeros.
_ZEROS = (aten.zeros_like.default, aten.new_zeros.default, aten.zeros.default)


def attention(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Two products with softmax between them; None where weights are dropped, or a shape is not known."""
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
        q = reshaped(graph, q, [*batch[:-1], heads, batch[-1] // heads * length, width], node)
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
    return mixed if rows is None else reshaped(graph, mixed, [*rows, shape(v)[-1]], node)


def _masked(graph: fx.Graph, scores: fx.Node, mask: fx.Node, rows: list[Any] | None, node: fx.Node) -> fx.Node | None:
    """The scores, minus infinity where the mask says so; a boolean one says who takes part, and is no number."""
    if mask.meta["val"].dtype is torch.bool:
        mask = call(graph, aten.where.Scalar, mask, 0.0, -math.inf, like=node)
    if rows is None:
        return call(graph, aten.add.Tensor, scores, mask, like=node)
    apart = reshaped(graph, scores, [*rows, shape(scores)[-1]], node)
    if apart is None:
        return None
    return reshaped(graph, call(graph, aten.add.Tensor, apart, mask, like=node), list(shape(scores)), node)


def _later_tokens(graph: fx.Graph, length: Any, keys: Any, node: fx.Node) -> fx.Node | None:
    """The mask of attention to earlier tokens; FoldConstants computes it. None where the lengths are free."""
    if isinstance(length, torch.SymInt) or isinstance(keys, torch.SymInt):
        return None
    all_hidden = call(graph, aten.full.default, [length, keys], -math.inf, like=node)
    return call(graph, aten.triu.default, all_hidden, 1, like=node)


def filled(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Scores of which some are replaced by next to minus infinity: as well that is added to them, from a mask."""
    x, condition, value = arguments(node)
    if x.target in _ZEROS and str(shape(x)) == str(shape(condition)) and node.meta["val"].dtype is torch.float32:
        return call(graph, aten.where.Scalar, condition, value, 0.0, like=node)
    if not _hides(node, value):
        return None
    mask = call(graph, aten.where.Scalar, condition, value, 0.0, like=node)
    return call(graph, aten.add.Tensor, x, mask, like=node)


def chosen(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """The same, spelled as a choice between the scores and a number."""
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
