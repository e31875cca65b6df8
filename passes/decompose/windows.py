"""What slides a window over images.

conv2d(x, w, b, padding="same")   =>   conv2d(pad(x), w, b), the padding in the convolution where it can be
conv2d(x, w, b), x an image alone =>   squeeze(conv2d(unsqueeze(x), w, b)), and so for every kind of window
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant.arguments import arguments, callee, node_arg
from fxquant.graph import call

aten = torch.ops.aten

# Axes that a window slides over.
WINDOWS: dict[Any, int] = {
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


def padding_in_words(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
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
    return unbatched(graph, numeric) or numeric


def unbatched(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Primitives take the first axis for the batch; what has none is a batch of one."""
    x = node_arg(node, 0)
    if x.meta["val"].ndim != WINDOWS[node.target] + 1:
        return None
    batch = call(graph, aten.unsqueeze.default, x, 0, like=node)
    result = call(graph, callee(node), batch, *node.args[1:], like=node, **node.kwargs)
    return call(graph, aten.squeeze.dim, result, 0, like=node)
