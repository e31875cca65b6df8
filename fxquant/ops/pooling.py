"""Pooling and means: maxima keep their range, averages are sums whose divisor goes into the scale."""

from __future__ import annotations

import math
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.arguments import argument, arguments, ints_arg, node_arg
from fxquant.graph import shape
from fxquant.ops.products import numbers
from fxquant.ops.spelling import Int, Speller, Sum, Term, reach
from fxquant.ops.table import Channels, Fusion, RangeRule, float_op

aten, fxq = torch.ops.aten, torch.ops.fxq


@float_op(aten.max_pool1d.default, aten.max_pool2d.default, range=RangeRule.SHARED, channels=Channels.WITHIN)
def max_pool(s: Speller, node: fx.Node) -> Int:
    """Largest value of each window, on the integers as they are."""
    source, kernel, stride, padding, dilation, ceil = arguments(node)
    dims = 1 if node.target is aten.max_pool1d.default else 2
    x = s.int_(source)
    settings = [numbers(v, dims) for v in (kernel, stride or kernel, padding, dilation)]
    return replace(x, node=s.call(fxq.max_pool.default, x.node, *settings, bool(ceil), like=node))


@float_op(aten.avg_pool1d.default, aten.avg_pool2d.default, fusion=Fusion.SUM, channels=Channels.WITHIN)
def avg_pool(s: Speller, node: fx.Node) -> Sum:
    """Mean of each window; windows cut by the border have scales of their own."""
    # One dimension knows no divisor of its own.
    source, kernel, stride, padding, ceil, include, *divisor = arguments(node)
    dims = 1 if node.target is aten.avg_pool1d.default else 2
    x = s.int_(source)
    kernel, stride, padding = (numbers(v, dims) for v in (kernel, stride or kernel, padding))
    settings = (kernel, stride, padding, bool(ceil))
    s.prove_reach(math.prod(kernel) * reach(x.qparams), node)
    acc = s.call(fxq.sum_pool.default, x.node, x.qparams.one_zero_point, *settings, like=node)
    inverse = _inverse_counts(source.meta["val"].shape[-dims:], settings, bool(include), divisor)
    return Sum((Term(acc, 0, inverse * x.qparams.one_scale),))


def _inverse_counts(size: Any, settings: tuple[Any, ...], include: bool, divisor: list[Any]) -> Tensor:
    """One over the number of elements that torch divides each window by: one number where all agree."""
    dims = len(size)
    function: Any = torch.nn.functional.avg_pool1d if dims == 1 else torch.nn.functional.avg_pool2d
    ones = torch.ones(1, 1, *(int(n) for n in size), dtype=torch.float64)
    mean: Tensor = function(ones, *settings, include, *divisor)
    inside = fxq.sum_pool.default(ones.to(torch.int32), 0, *settings).double()
    return _uniform(mean / inside.clamp(min=1))


@float_op(
    aten.adaptive_avg_pool1d.default, aten.adaptive_avg_pool2d.default, fusion=Fusion.SUM, channels=Channels.WITHIN
)
def adaptive_avg_pool(s: Speller, node: fx.Node) -> Sum:
    """Mean over torch's split of each axis."""
    x, size = s.int_(node.args[0]), ints_arg(node, "output_size")
    image = [int(n) for n in shape(node_arg(node, 0))[-len(size) :]]
    counts = fxq.adaptive_sum_pool.default(torch.ones(1, 1, *image, dtype=torch.int32), 0, size)
    s.prove_reach(int(counts.max()) * reach(x.qparams), node)
    acc = s.call(fxq.adaptive_sum_pool.default, x.node, x.qparams.one_zero_point, size, like=node)
    return Sum((Term(acc, 0, _uniform(1.0 / counts.double()) * x.qparams.one_scale),))


def _uniform(scales: Tensor) -> Tensor:
    """One number where all are the same."""
    first = scales.flatten()[:1]
    return first if bool((scales == first).all()) else scales


def _fixed_axes(node: fx.Node) -> str | None:
    is_free = 0 in _axes(node) and isinstance(shape(node_arg(node, 0))[0], torch.SymInt)
    return "it reduces the batch" if is_free else None


def _axes(node: fx.Node) -> list[int]:
    ndim = len(shape(node_arg(node, 0)))
    dims = argument(node, "dim")
    return sorted(d % ndim for d in (numbers(dims, 1) if dims not in (None, []) else range(ndim)))


@float_op(aten.amax.default, range=RangeRule.SHARED, refuses=_fixed_axes, channels=Channels.WITHIN)
def amax(s: Speller, node: fx.Node) -> Int:
    """Largest value over some axes, on the integers as they are."""
    x = s.int_(node.args[0])
    settings = _axes(node), bool(argument(node, "keepdim"))
    return replace(x, node=s.call(fxq.max_reduce.default, x.node, *settings, like=node))


@float_op(aten.amin.default, range=RangeRule.SHARED, refuses=_fixed_axes, channels=Channels.WITHIN)
def amin(s: Speller, node: fx.Node) -> Int:
    """Smallest value over some axes, on the integers as they are."""
    x = s.int_(node.args[0])
    settings = _axes(node), bool(argument(node, "keepdim"))
    return replace(x, node=s.call(fxq.min_reduce.default, x.node, *settings, like=node))


@float_op(aten.mean.dim, fusion=Fusion.SUM, refuses=_fixed_axes, channels=Channels.WITHIN)
def mean(s: Speller, node: fx.Node) -> Sum:
    """Mean over some axes."""
    return _reduced(s, node, average=True)


@float_op(aten.sum.dim_IntList, fusion=Fusion.SUM, refuses=_fixed_axes, channels=Channels.WITHIN)
def sum_(s: Speller, node: fx.Node) -> Sum:
    """Sum over some axes."""
    return _reduced(s, node, average=False)


def _reduced(s: Speller, node: fx.Node, average: bool) -> Sum:
    x, axes = s.int_(node.args[0]), _axes(node)
    keepdim = bool(argument(node, "keepdim"))
    sizes = shape(node_arg(node, 0))
    count = math.prod(int(sizes[a]) for a in axes)
    s.prove_reach(count * reach(x.qparams), node)
    acc = s.call(fxq.sum_reduce.default, x.node, x.qparams.one_zero_point, axes, keepdim, like=node)
    scale = x.qparams.one_scale / (count if average else 1)
    return Sum((Term(acc, 0, torch.tensor([scale], dtype=torch.float64)),))
