"""Ranges at run time: scales, the integers of a scale, and accumulators as real numbers again."""

from __future__ import annotations

from collections.abc import Hashable
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.arguments import int_arg, int_args, node_arg
from fxquant.names import label_of
from fxquant.ops.movement import VIEWS
from fxquant.targets.buffers import Tensor
from fxquant.targets.kernels.contract.operations import Pixels, Round
from fxquant.targets.kernels.elementwise.dynamic import peaks_kernel, scale_kernel
from fxquant.targets.kernels.words.numbers import PEAKS, clamp
from fxquant.targets.kernels.words.reals import apart
from fxquant.targets.lowering.elementwise import integer_result
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.tvm_api import T, tirx

fxq = torch.ops.fxq


@lowers(fxq.dynamic_scale.default)
def dynamic_scale(ctx: Lowering, node: fx.Node) -> None:
    """From the peaks that the producer noted, or by reading the tensor."""
    source = node_arg(node, "x")
    levels = ctx.constant(np.array([int_arg(node, "levels")], np.float32), f"{node.name}_levels")
    x, out = ctx.tensor(source), ctx.ordered(node)
    for n in range(out.shape[0]):
        peaks = ctx.peaks.get(source) or _peaks(ctx, node, x.sliced(0, n, 1))
        count = peaks.shape[0] // PEAKS
        ctx.kernel("scale", count, partial(scale_kernel, count), [peaks, levels], out.sliced(0, n, 1), node)


def _peaks(ctx: Lowering, node: fx.Node, x: Tensor) -> Tensor:
    whole = x if x.spec.extent == x.spec.size else ctx.dense(x, node)
    size, lanes = whole.spec.size, ctx.kernels.lanes
    symbol = ctx.program.symbol("peaks", ("peaks", size, lanes), partial(peaks_kernel, size, lanes))
    out = ctx.new_peaks(node, symbol)
    ctx.program.call(symbol, [whole, out], out, label_of(node))
    return out


@lowers(fxq.scale_product.default)
def scale_product(ctx: Lowering, node: fx.Node) -> None:
    """A number for each sample."""
    a, b = ctx.operand(node, "a"), ctx.operand(node, "b")
    ctx.map("scale_product", ctx.ordered(node), [a, b], lambda t, i: t[0](*i) * t[1](*i), node)


@lowers(fxq.quantize_dynamic.default)
def quantize_dynamic(ctx: Lowering, node: fx.Node) -> None:
    """Vectors of rows where the tensors lie so, else element by element."""
    x, scale, n = (
        ctx.operand(node, "x"),
        ctx.operand(node, "scale"),
        ctx.numbers(node, *int_args(node, "zero_point", "qmin", "qmax")),
    )
    out = ctx.result(node, x) if _multiplies(node) else integer_result(ctx, node, x)
    for number in range(x.shape[0]):
        one, target, unit = (t.sliced(0, number, 1) for t in (x, out, scale))
        if not _vectors(ctx, node, [one, unit, n], target):
            ctx.map("quantize_dynamic", target, [one, unit, n], _rounded, node)


def _multiplies(node: fx.Node) -> bool:
    """Whether the integers, moved or not, are rows of a matrix product and no image."""
    moved = [user for user in node.users if user.target in VIEWS]
    return any(user.target in (fxq.matmul.default, fxq.linear.default) for user in node.users) or any(
        map(_multiplies, moved)
    )


def _vectors(ctx: Lowering, node: fx.Node, inputs: list[Tensor], out: Tensor) -> bool:
    x = inputs[0]
    problems: list[tuple[str, Hashable]] = [("round", Round(x.spec, out.spec))]
    if len(x.shape) == 4:
        problems.insert(0, ("pixels", Pixels(x.sample(0).spec, out.sample(0).spec, inverse=True)))
    for operation, problem in problems:
        if (choice := ctx.kernels.find(operation, problem)) is not None:
            ctx.kernel(choice.name, problem, choice.build, inputs, out, node, kernel="quantize")
            return True
    return False


def _rounded(t: Any, i: Any) -> Any:
    steps = T.nearbyint(t[0](*i) * (tirx.const(1.0, "float32") / t[1](0)))
    steps = tirx.Select(tirx.isnan(t[0](*i)), tirx.const(0.0, "float32"), steps)
    low, high = (T.cast(t[2](k) - t[2](0), "float32") for k in (1, 2))
    return T.cast(clamp(steps, low, high), "int32") + t[2](0)


@lowers(fxq.rescale_real.default)
def rescale_real(ctx: Lowering, node: fx.Node) -> None:
    """Element by element, where no kernel of a product does it."""
    acc, factor, scale, bias = (ctx.operand(node, name) for name in ("acc", "factor", "scale", "bias"))

    def body(t: Any, i: Any) -> Any:
        unit = t[1](*i) * t[2](i[0])
        return apart(T.cast(t[0](*i), "float32") * unit, "float32") + t[3](*i)

    ctx.map("rescale_real", ctx.result(node, acc), [acc, factor, scale, bias], body, node)
