"""Pooling and reductions: small windows are unrolled, so that channels vectorize; large ones are summed in blocks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from math import prod
from typing import Any

import torch
from torch import fx

from fxquant.targets.kernels.kernel import TensorSpec
from fxquant.targets.kernels.reduce import reduce_kernel
from fxquant.targets.lowering.convolution import image
from fxquant.targets.lowering.elementwise import numbers
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.lowering.values import Tensor
from fxquant.targets.tvm_api import I, tirx

fxq = torch.ops.fxq

def _window(node: fx.Node, first: int) -> list[tuple[int, int]]:
    """Kernel, stride, padding as (h, w) pairs from argument `first` on; a signal has h = 1."""
    neutral = (1, 1, 0)
    pairs = []
    for position, other in enumerate(neutral):
        values = [int(v) for v in node.args[first + position]]  # type: ignore[union-attr]
        pairs.append((values[0], values[1]) if len(values) == 2 else (other, values[0]))
    return pairs


@lowers(fxq.max_pool.default)
def max_pool(l: Lowering, node: fx.Node) -> None:
    """Largest value of each window; positions outside of the image do not count."""
    kernel, stride, padding = _window(node, 1)
    steps = [int(d) for d in node.args[4]]  # type: ignore[union-attr]
    dilation = (steps[0], steps[1]) if len(steps) == 2 else (1, steps[0])
    source = l.tensor(node.args[0])
    x = image(source)
    out = l.result(node, source)
    height, width = x.shape[2:]
    lowest = int(torch.iinfo(l.fake[node].dtype).min)

    def body(t: Any, i: Any) -> Any:
        best: Any = None
        for kh in range(kernel[0]):
            for kw in range(kernel[1]):
                y, inside_y = _position(i[2] * stride[0] + (kh * dilation[0] - padding[0]), height)
                z, inside_x = _position(i[3] * stride[1] + (kw * dilation[1] - padding[1]), width)
                value = t[0](i[0], i[1], y, z)
                for inside in (inside_y, inside_x):
                    value = value if dilation == (1, 1) else tirx.Select(inside, value, tirx.const(lowest, "int32"))
                best = value if best is None else I.max(best, value)
        return best

    key = (kernel, stride, padding, dilation)
    l.map("max_pool", image(out), [x], body, node, key=key, weight=prod(kernel))


def _position(at: Any, size: int) -> tuple[Any, Any]:
    """A position clamped into the image, and whether it was inside. Clamped positions lie in an undilated window anyway."""
    clamped = I.min(I.max(at, 0), size - 1)
    return clamped, tirx.all(at >= 0, at < size)


@lowers(fxq.sum_pool.default)
def sum_pool(l: Lowering, node: fx.Node) -> None:
    """Sum of each window, positions outside counting nothing."""
    kernel, stride, padding = _window(node, 2)
    x = image(l.tensor(node.args[0]))
    zero = int(node.args[1])  # type: ignore[call-overload]
    out = l.result(node, l.tensor(node.args[0]))
    whole = image(out).shape[2:] == (1, 1) and padding == (0, 0) and kernel == x.shape[2:]
    if whole:
        _sum_axes(l, node, x, image(out), (2, 3), zero)
        return
    height, width = x.shape[2:]
    n = numbers(l, node, zero)

    def body(t: Any, i: Any) -> Any:
        total: Any = tirx.const(0, "int32")
        for kh in range(kernel[0]):
            for kw in range(kernel[1]):
                y, inside_y = _position(i[2] * stride[0] + (kh - padding[0]), height)
                z, inside_x = _position(i[3] * stride[1] + (kw - padding[1]), width)
                value = t[0](i[0], i[1], y, z) - t[1](0)
                total = total + tirx.Select(tirx.all(inside_y, inside_x), value, tirx.const(0, "int32"))
        return total

    l.map("sum_pool", image(out), [x, n], body, node, key=(kernel, stride, padding), weight=prod(kernel))


@lowers(fxq.adaptive_sum_pool.default)
def adaptive_sum_pool(l: Lowering, node: fx.Node) -> None:
    """One reduction per output position of the split."""
    x = image(l.tensor(node.args[0]))
    zero = int(node.args[1])  # type: ignore[call-overload]
    out = image(l.result(node, l.tensor(node.args[0])))
    sizes = [x.shape[2], x.shape[3]]
    for oh in range(out.shape[2]):
        for ow in range(out.shape[3]):
            spans = [(o * n // c, -(-(o + 1) * n // c)) for o, n, c in zip((oh, ow), sizes, out.shape[2:], strict=True)]
            part = _part(x, spans[0], spans[1])
            target = _part(out, (oh, oh + 1), (ow, ow + 1))
            _sum_axes(l, node, part, target, (2, 3), zero)


def _part(x: Tensor, rows: tuple[int, int], columns: tuple[int, int]) -> Tensor:
    spec = replace(x.spec, shape=(*x.shape[:2], rows[1] - rows[0], columns[1] - columns[0]))
    return Tensor(x.buffer, spec, x.offset + rows[0] * spec.strides[2] + columns[0] * spec.strides[3])


@lowers(fxq.sum_reduce.default)
def sum_reduce(l: Lowering, node: fx.Node) -> None:
    """Sum over some axes."""
    x = l.tensor(node.args[0])
    axes = tuple(sorted(int(d) % len(x.shape) for d in node.args[2]))  # type: ignore[union-attr]
    kept = tuple(1 if a in axes else n for a, n in enumerate(x.shape))
    out = l.result(node)
    moved = out.viewed(lambda t: t.view(kept))
    assert moved is not None
    _sum_axes(l, node, x, moved, axes, int(node.args[1]))  # type: ignore[call-overload]


def _sum_axes(l: Lowering, node: fx.Node, x: Tensor, out: Tensor, axes: tuple[int, ...], zero: int) -> None:
    """out = sum over `axes` of x - zero; `out` has size 1 there."""
    n = numbers(l, node, zero)
    specs: tuple[TensorSpec, TensorSpec] = (x.spec, out.spec)
    l.kernel("sum", (specs, axes), lambda: reduce_kernel(x.spec, out.spec, axes), [x, n, out], out, node)
