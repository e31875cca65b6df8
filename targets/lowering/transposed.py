"""Transposed convolutions: one plain convolution per output phase, each writing every stride-th pixel.

Along one axis, output o reads tap k of input i where o + padding = i * stride + k: so the outputs `at`, `at + stride`,
... all read the same taps, those of the same remainder.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import product
from typing import Any

import numpy as np
from torch import fx

from fxquant.arguments import int_arg, ints_arg, node_arg
from fxquant.graph import constant_bits
from fxquant.targets.buffers import Tensor, pair
from fxquant.targets.kernels.contract.problem import Layer
from fxquant.targets.lowering.borders import Border
from fxquant.targets.lowering.convolution import Geometry, Images, bias_of, image_residual, image_result, place
from fxquant.targets.lowering.lowering import Lowering
from fxquant.targets.lowering.rounding import Rounding

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class _Phase:
    """`count` outputs of one axis, every `stride`-th from `at` on: the first input they read, and the taps in order."""

    at: int
    stride: int
    count: int
    start: int
    taps: list[int]

    @property
    def end(self) -> int:
        """One past the last input that is read."""
        return self.start + self.count + max(len(self.taps), 1) - 1

    def outputs(self, image: Tensor, axis: int) -> Tensor:
        """The pixels of the phase."""
        return image.sliced(axis, self.at, self.count, self.stride)


def convolve_transposed(ctx: Lowering, node: fx.Node, rounding: Rounding) -> None:
    """Append an `fxq.conv_transpose`."""
    stride, padding, dilation = (
        pair(ints_arg(node, p), alone) for p, alone in (("stride", 1), ("padding", 0), ("dilation", 1))
    )
    groups = int_arg(node, "groups")
    bits = constant_bits(node_arg(node, "weight"))
    weight = _per_output(_spread(ctx.array(node_arg(node, "weight")), dilation), groups)
    bias, zero, geometry = bias_of(ctx, node, len(weight)), int_arg(node, "zero_point"), Geometry(groups=groups)
    out = image_result(ctx, rounding)
    phases = [_phases(stride[a], padding[a], weight.shape[2 + a], out.shape[2 + a]) for a in (0, 1)]
    x = _with_border(ctx, node, phases)
    residual = image_residual(ctx, rounding, node)
    for h, w in product(*phases):
        part = weight[:, :, h.taps][:, :, :, w.taps] if h.taps and w.taps else np.zeros_like(weight[:, :, :1, :1])
        reads = [p.count + size - 1 for p, size in zip((h, w), part.shape[2:], strict=True)]
        images = Images(
            x.sliced(2, h.start, reads[0]).sliced(3, w.start, reads[1]),
            w.outputs(h.outputs(out, 2), 3),
            None if residual is None else w.outputs(h.outputs(residual, 2), 3),
        )
        place(ctx, node, rounding, images, Layer(part, bias, zero, bits), geometry)


def _phases(stride: int, padding: int, kernel: int, size: int) -> list[_Phase]:
    phases = []
    for at in range(min(stride, size)):
        taps = list(range((at + padding) % stride, kernel, stride))[::-1]
        start = (at + padding) // stride - (len(taps) - 1) if taps else 0
        phases.append(_Phase(at, stride, len(range(at, size, stride)), start, taps))
    return phases


def _with_border(ctx: Lowering, node: fx.Node, phases: list[list[_Phase]]) -> Tensor:
    """The operand with room for what any phase reads outside of it."""
    x = ctx.operand(node, "x").image()
    top, left = (max(0, *(-p.start for p in axis)) for axis in phases)
    bottom, right = (max(0, *(p.end - size for p in axis)) for axis, size in zip(phases, x.shape[2:], strict=True))
    return ctx.copied(x, node, Border(top, bottom, left, right, int_arg(node, "zero_point")))


def _spread(weight: Array, dilation: tuple[int, int]) -> Array:
    """(in, out, kh, kw) with zeros between dilated taps."""
    weight = weight[:, :, None] if weight.ndim == 3 else weight
    sizes = [(n - 1) * d + 1 for n, d in zip(weight.shape[2:], dilation, strict=True)]
    out = np.zeros((*weight.shape[:2], *sizes), weight.dtype)
    out[:, :, :: dilation[0], :: dilation[1]] = weight
    return out


def _per_output(weight: Array, groups: int) -> Array:
    """(in, out / groups, ...) as (out, in / groups, ...)."""
    split = weight.reshape(groups, weight.shape[0] // groups, *weight.shape[1:])
    return np.ascontiguousarray(np.moveaxis(split, 1, 2).reshape(-1, split.shape[1], *weight.shape[2:]))
