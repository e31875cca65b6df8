"""Resizing: positions and weights are constant tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.arguments import int_arg, ints_arg, nodes_arg
from fxquant.targets.lowering.lowering import Lowering, lowers

fxq = torch.ops.fxq


@lowers(fxq.upsample_nearest.default)
def upsample_nearest(ctx: Lowering, node: fx.Node) -> None:
    """Copies by a table of positions per axis."""
    x = ctx.operand(node, 0)
    positions = (ints_arg(node, 1) or [0], ints_arg(node, 2))
    tables = [ctx.constant(np.array(p, np.int32), f"{node.name}_positions") for p in positions]
    out = ctx.result(node, x).image()
    inputs = [x.image(), *tables]
    ctx.map("upsample", out, inputs, lambda t, i: t[0](i[0], i[1], t[1](i[2]), t[2](i[3])), node, weight=2)


@lowers(fxq.interpolate.default)
def interpolate(ctx: Lowering, node: fx.Node) -> None:
    """Two neighbours per axis with fixed-point weights."""
    x = ctx.operand(node, 0)
    indices, weights = ([ctx.array(a) for a in nodes_arg(node, p)] for p in (2, 3))
    if len(indices) == 1:
        indices, weights = [np.zeros((1, 2), np.int32), *indices], [np.array([[1, 0]], np.int32), *weights]
    tables = [ctx.constant(a.astype(np.int32), f"{node.name}_table") for a in (*indices, *weights)]
    n = ctx.numbers(node, int_arg(node, 1))
    out = ctx.result(node, x).image()

    def body(t: Any, i: Any) -> Any:
        total: Any = 0
        for a in (0, 1):
            for b in (0, 1):
                value = t[0](i[0], i[1], t[1](i[2], a), t[2](i[3], b)) - t[5](0)
                total = total + value * t[3](i[2], a) * t[4](i[3], b)
        return total

    ctx.map("interpolate", out, [x.image(), *tables, n], body, node, weight=8)
