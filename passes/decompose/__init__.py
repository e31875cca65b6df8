"""Rewrite composite operators as the few that the op table knows.

scaled_dot_product_attention(q, k, v)   =>   matmul(softmax(matmul(q, k^T) * scale + mask), v)
split(x, n)[i], unbind(x)[i]            =>   slice(x), select(x)
stack([x, y], 1)                        =>   cat([unsqueeze(x, 1), unsqueeze(y, 1)], 1)
addmm(b, x, w)                          =>   linear(x, w^T, b), and sums of their own where factors are not 1
view(x, [batch, 8]), flatten(x, 1)      =>   reshape(x, [-1, 8])
repeat(x, [batch, 1])                   =>   reshape(expand(unsqueeze(x, 0), [batch, ...]), [-1, ...])
conv2d(x, w, b, padding="same")         =>   conv2d(pad(x), w, b), the padding in the convolution where it can be
conv2d(x, w, b), x an image alone       =>   squeeze(conv2d(unsqueeze(x), w, b)), and so for every kind of window
masked_fill(scores, m, -inf)            =>   add(scores, where(m, -inf, 0)), which is the same to softmax
channel_shuffle(x, 2), pixel_shuffle    =>   reshape(permute(reshape(x)))
lstm(x, [h, c], [w, u, b, d])           =>   a product with x for all steps, and a recurrence

One rule per operator, by kind: `attention.py`, `norms.py` (normalization, by hand as well), `parts.py`, `products.py`,
`recurrent.py`, `shapes.py`, `shuffles.py`, `values.py` (gates, masks, limits, softmax over any axis), `windows.py`.
"""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxquant.graph import calls, clean, replace
from fxquant.passes.decompose import attention, norms, parts, products, recurrent, shapes, shuffles, values, windows
from fxquant.passmanager import Pass

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


# By hand as well as by name; the first one that applies.
_PRODUCTS: dict[Any, Rewrite] = {
    aten.mul.Tensor: values.first(values.masked, values.real_operands, norms.normalized, norms.affine),
    aten.div.Tensor: values.first(values.real_operands, norms.normalized, values.divided),
    aten.add.Tensor: values.first(values.real_operands, norms.affine),
}

_REWRITES: dict[Any, Rewrite] = {
    **dict.fromkeys(windows.WINDOWS, windows.unbatched),
    aten.conv1d.padding: windows.padding_in_words,
    aten.conv2d.padding: windows.padding_in_words,
    aten.conv3d.padding: windows.padding_in_words,
    **values.REWRITES,
    **norms.REWRITES,
    **_PRODUCTS,
    aten.masked_fill.Scalar: values.first(attention.filled, values.filled),
    aten.where.ScalarOther: attention.chosen,
    aten.where.self: attention.chosen,
    aten.cat.default: parts.joined,
    aten.concat.default: parts.concatenated,
    aten.concatenate.default: parts.concatenated,
    aten.stack.default: parts.stacked,
    aten.channel_shuffle.default: shuffles.channel_shuffle,
    aten.pixel_shuffle.default: shuffles.pixel_shuffle,
    aten.pixel_unshuffle.default: shuffles.pixel_unshuffle,
    aten.sym_size.int: shapes.batch_size,
    aten.flatten.using_ints: shapes.flatten,
    aten.repeat.default: shapes.repeated,
    aten.scaled_dot_product_attention.default: attention.attention,
    **dict.fromkeys(recurrent.LAYERS, recurrent.apart),
    operator.getitem: parts.item,
    aten.mm.default: products.mm,
    aten.addmm.default: products.addmm,
    aten.baddbmm.default: products.baddbmm,
    aten.view.default: shapes.view,
    aten._unsafe_view.default: shapes.view,
    aten.reshape.default: shapes.view,
}
