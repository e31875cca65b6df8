"""Pooling and reductions: small windows are unrolled, so that channels vectorize; large ones are summed in blocks."""

from __future__ import annotations

from itertools import product
from math import prod
from typing import Any

import torch
from torch import fx

from fxquant.arguments import int_arg, ints_arg
from fxquant.targets.buffers import Tensor, pair
from fxquant.targets.kernels.rows.reduce import Fold, reduce_kernel
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.tvm_api import I, tirx

fxq = torch.ops.fxq


def _window(node: fx.Node) -> list[tuple[int, int]]:
    """Kernel, stride, padding as (h, w) pairs; a signal has h = 1."""
    return [pair(ints_arg(node, name), neutral) for name, neutral in (("kernel", 1), ("stride", 1), ("padding", 0))]


@lowers(fxq.max_pool.default)
def max_pool(ctx: Lowering, node: fx.Node) -> None:
    """Largest value of each window; positions outside of the image do not count."""
    kernel, stride, padding = _window(node)
    dilation = pair(ints_arg(node, "dilation"), 1)
    source = ctx.operand(node, "x")
    x, out = source.image(), ctx.result(node, source).image()
    height, width = x.shape[2:]
    lowest = int(torch.iinfo(ctx.fake[node].dtype).min)
    # As memory holds them bytes compare as they are, sixteen to a vector.
    as_held = dilation == (1, 1) and not x.spec.bias and not out.spec.bias

    def body(t: Any, i: Any) -> Any:
        best: Any = None
        for kh in range(kernel[0]):
            for kw in range(kernel[1]):
                y, inside_y = _position(i[2] * stride[0] + (kh * dilation[0] - padding[0]), height)
                z, inside_x = _position(i[3] * stride[1] + (kw * dilation[1] - padding[1]), width)
                value = (t[0].raw if as_held else t[0])(i[0], i[1], y, z)
                for inside in (inside_y, inside_x):
                    value = value if dilation == (1, 1) else tirx.Select(inside, value, tirx.const(lowest, "int32"))
                best = value if best is None else I.max(best, value)
        return best

    key = (kernel, stride, padding, dilation)
    lanes = ctx.kernels.byte_lanes
    fits = as_held and out.spec.strides[1] == x.spec.strides[1] == 1 and out.shape[1] % lanes == 0
    ctx.map("max_pool", out, [x], body, node, key=key, weight=prod(kernel), lanes=lanes if fits else 1)


def _position(at: Any, size: int) -> tuple[Any, Any]:
    """A position clamped into the image, and whether it was inside.

    The maximum of an undilated window may take in clamped positions: they lie in the window anyway.
    """
    clamped = I.min(I.max(at, 0), size - 1)
    return clamped, tirx.all(at >= 0, at < size)


@lowers(fxq.sum_pool.default)
def sum_pool(ctx: Lowering, node: fx.Node) -> None:
    """Sum of each window, positions outside counting nothing."""
    kernel, stride, padding = _window(node)
    source, zero = ctx.operand(node, "x"), int_arg(node, "zero_point")
    x, out = source.image(), ctx.result(node, source).image()
    if out.shape[2:] == (1, 1) and padding == (0, 0) and kernel == x.shape[2:]:
        _sum_axes(ctx, node, x, out, (2, 3), zero)
        return
    height, width = x.shape[2:]
    n = ctx.numbers(node, zero)

    def body(t: Any, i: Any) -> Any:
        total: Any = tirx.const(0, "int32")
        for kh in range(kernel[0]):
            for kw in range(kernel[1]):
                y, inside_y = _position(i[2] * stride[0] + (kh - padding[0]), height)
                z, inside_x = _position(i[3] * stride[1] + (kw - padding[1]), width)
                value = t[0](i[0], i[1], y, z) - t[1](0)
                total = total + tirx.Select(tirx.all(inside_y, inside_x), value, tirx.const(0, "int32"))
        return total

    ctx.map("sum_pool", out, [x, n], body, node, key=(kernel, stride, padding), weight=prod(kernel))


@lowers(fxq.adaptive_sum_pool.default)
def adaptive_sum_pool(ctx: Lowering, node: fx.Node) -> None:
    """One reduction per output position of the split."""
    source, zero = ctx.operand(node, "x"), int_arg(node, "zero_point")
    x, out = source.image(), ctx.result(node, source).image()
    for at in product(range(out.shape[2]), range(out.shape[3])):
        window, target = x, out
        for axis, o in enumerate(at, start=2):
            first, end = o * x.shape[axis] // out.shape[axis], -(-(o + 1) * x.shape[axis] // out.shape[axis])
            window, target = window.sliced(axis, first, end - first), target.sliced(axis, o, 1)
        _sum_axes(ctx, node, window, target, (2, 3), zero)


@lowers(fxq.sum_reduce.default)
def sum_reduce(ctx: Lowering, node: fx.Node) -> None:
    """Sum over some axes."""
    x, out, axes = _folded(ctx, node)
    _sum_axes(ctx, node, x, out, axes, int_arg(node, "zero_point"))


@lowers(fxq.max_reduce.default, fxq.min_reduce.default)
def extreme(ctx: Lowering, node: fx.Node) -> None:
    """The largest or the smallest over some axes; bytes compare as memory holds them."""
    x, out, axes = _folded(ctx, node)
    fold: Fold = "max" if node.target is fxq.max_reduce.default else "min"
    key = (x.spec, out.spec, axes, fold)
    ctx.kernel(fold, key, lambda: reduce_kernel(*key), [x], out, node)


def _folded(ctx: Lowering, node: fx.Node) -> tuple[Tensor, Tensor, tuple[int, ...]]:
    """Operand, result with size 1 on the axes that the node names, and these axes."""
    x = ctx.operand(node, "x")
    axes = tuple(sorted(d % len(x.shape) for d in ints_arg(node, "dims")))
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    return x, ctx.result(node).view(lambda t: t.view(kept)), axes


def _sum_axes(ctx: Lowering, node: fx.Node, x: Tensor, out: Tensor, axes: tuple[int, ...], zero: int) -> None:
    """out = sum over `axes` of x - zero; `out` has size 1 there."""
    key = (x.spec, out.spec, axes)
    ctx.kernel("sum", key, lambda: reduce_kernel(*key), [x, ctx.numbers(node, zero)], out, node)
