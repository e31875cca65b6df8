"""Resizing: positions and weights are constant tables."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.arguments import int_arg, ints_arg, nodes_arg
from fxquant.targets.kernels.contract.operations import Resample
from fxquant.targets.kernels.resample import Stretch
from fxquant.targets.lowering.convolution import Images, channels_innermost, image_residual, image_result
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.lowering.rounding import Rounding, epilogue_of

fxq = torch.ops.fxq

Array = np.ndarray[Any, Any]


@lowers(fxq.upsample_nearest.default)
def upsample_nearest(ctx: Lowering, node: fx.Node) -> None:
    """Copies by a table of positions per axis."""
    x = ctx.operand(node, "x")
    positions = (ints_arg(node, "rows") or [0], ints_arg(node, "columns"))
    tables = [ctx.constant(np.array(p, np.int32), f"{node.name}_positions") for p in positions]
    out = ctx.result(node, x).image()
    inputs = [x.image(), *tables]
    ctx.map("upsample", out, inputs, lambda t, i: t[0](i[0], i[1], t[1](i[2]), t[2](i[3])), node, weight=2)


@lowers(fxq.interpolate.default)
def interpolate(ctx: Lowering, node: fx.Node) -> None:
    """A few neighbours per axis, element by element, as s32, where no kernel does more."""
    x = ctx.operand(node, "x")
    tables = [ctx.constant(a.astype(np.int32), f"{node.name}_table") for pair in _tables(ctx, node) for a in pair]
    n = ctx.numbers(node, int_arg(node, "zero_point"))
    out = ctx.result(node, x).image()

    def body(t: Any, i: Any) -> Any:
        total: Any = 0
        for a in range(tables[0].shape[1]):
            for b in range(tables[1].shape[1]):
                value = t[0](i[0], i[1], t[1](i[2], a), t[2](i[3], b)) - t[5](0)
                total = total + value * t[3](i[2], a) * t[4](i[3], b)
        return total

    taps = tables[0].shape[1] * tables[1].shape[1]
    ctx.map("interpolate", out, [x.image(), *tables, n], body, node, weight=2 * taps)


def resample(ctx: Lowering, node: fx.Node, rounding: Rounding) -> None:
    """An interpolation with what rounds it, one call per sample."""
    assert rounding.numbers is not None
    stretch = Stretch(*_tables(ctx, node), int_arg(node, "zero_point"), rounding.numbers)
    x, out = channels_innermost(ctx, ctx.operand(node, "x").image(), node), image_result(ctx, rounding)
    images = Images(x, out, image_residual(ctx, rounding, node))
    for n in range(x.shape[0]):
        one = images.sample(n)
        residual = [] if one.residual is None else [one.residual]
        form = epilogue_of(rounding, one.out.spec, residual[0].spec if residual else None)
        problem = Resample(one.x.spec, one.out.spec, form)
        choice = ctx.kernels.get("resample", problem, stretch)
        constants = [ctx.packed(array, f"{node.name}_{name}") for name, array in choice.constants.items()]
        ctx.kernel(choice.name, problem, choice.build, [one.x, *constants, *residual], one.out, node)


def _tables(ctx: Lowering, node: fx.Node) -> tuple[tuple[Array, Array], tuple[Array, Array]]:
    """Indices and weights of rows and columns; a signal is an image of one row."""
    indices, weights = ([ctx.array(a) for a in nodes_arg(node, name)] for name in ("indices", "weights"))
    if len(indices) == 1:
        indices, weights = [np.zeros((1, 2), np.int32), *indices], [np.array([[1, 0]], np.int32), *weights]
    return (indices[0], indices[1]), (weights[0], weights[1])
