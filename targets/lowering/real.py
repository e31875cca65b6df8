"""Float operations that are one rounding per element, or none: computed as they lie in memory, and equal everywhere.

Beside layers whose ranges are found at run time, these are what a network spends its time with. All other float
operations go through TVM's converter, see `island`.
"""

from __future__ import annotations

from collections.abc import Callable
from itertools import product
from typing import Any

import torch
from torch import fx

from fxquant.arguments import arguments
from fxquant.graph import is_float
from fxquant.ops.activation import clamp_bounds
from fxquant.ops.movement import VIEWS
from fxquant.ops.products import numbers
from fxquant.targets.buffers import pair
from fxquant.targets.groups import CLAMPS
from fxquant.targets.lowering.lowering import LOWERINGS, Lowering
from fxquant.targets.tvm_api import I, T, intrinsic, tirx

aten = torch.ops.aten

_BINARY: dict[Any, Callable[[Any, Any], Any]] = {
    aten.add.Tensor: lambda a, b: a + b,
    aten.sub.Tensor: lambda a, b: a - b,
    aten.mul.Tensor: lambda a, b: a * b,
}


def lower_real(ctx: Lowering, node: fx.Node) -> bool:
    """Whether the operation is one of these, and was appended."""
    sources = node.all_input_nodes
    if node.target is aten.embedding.default:
        LOWERINGS[node.target](ctx, node)
        return True
    if not sources or not all(is_float(n) and ctx.fake[n].dtype == torch.float32 for n in (node, *sources)):
        return False
    if node.target in VIEWS:
        LOWERINGS[node.target](ctx, node)
        return True
    if node.target in CLAMPS:
        _clamp(ctx, node)
        return True
    if node.target in _BINARY and len(node.args) == 2 and not node.kwargs and len(sources) == 2:
        _binary(ctx, node)
        return True
    return node.target in (aten.max_pool1d.default, aten.max_pool2d.default) and _max_pool(ctx, node)


def _clamp(ctx: Lowering, node: fx.Node) -> None:
    x, ends = ctx.operand(node, 0), clamp_bounds(node)
    low, high = (tirx.const(end, "float32") for end in ends)
    out = ctx.result(node, x)
    # In this order NaN stays what it is.
    ctx.map("clamp", out, [x], lambda t, i: T.min(high, T.max(low, t[0](*i))), node, key=ends, overwrites=[x])


def _binary(ctx: Lowering, node: fx.Node) -> None:
    a, b = ctx.operand(node, 0), ctx.operand(node, 1)
    function, out = _BINARY[node.target], ctx.result(node, a if a.shape == tuple(ctx.fake[node].shape) else b)
    ctx.map("real", out, [a, b], lambda t, i: function(t[0](*i), t[1](*i)), node, key=node.target, overwrites=[a, b])


def _max_pool(ctx: Lowering, node: fx.Node) -> bool:
    dims = 1 if node.target is aten.max_pool1d.default else 2
    _, size, stride, padding, dilation, _ = arguments(node)
    kernel, step, before = (pair(numbers(v, dims), n) for v, n in ((size, 1), (stride or size, 1), (padding, 0)))
    if set(numbers(dilation, dims)) != {1}:
        return False
    source = ctx.operand(node, 0)
    x, out = source.image(), ctx.result(node, source).image()

    def body(t: Any, i: Any) -> Any:
        best: Any = None
        for tap in product(*map(range, kernel)):
            # A position outside is the nearest one inside, which is in the window anyway.
            at = [_inside(i[2 + a] * step[a] + (tap[a] - before[a]), x.shape[2 + a]) for a in (0, 1)]
            value = t[0](i[0], i[1], *at)
            # With NaN it is NaN; TVM's own maximum takes the other number.
            best = value if best is None else intrinsic("llvm.maximum", "float32", best, value)
        return best

    ctx.map("max_pool_real", out, [x], body, node, key=(kernel, step, before), weight=kernel[0] * kernel[1])
    return True


def _inside(position: Any, size: int) -> Any:
    return I.min(I.max(position, 0), size - 1)
