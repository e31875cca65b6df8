"""A convolution over an image without a border, and the numbers that round it: what every compact template takes."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np

from fxquant.targets.kernels.contract.kernel import TensorSpec
from fxquant.targets.kernels.epilogue.x86 import Epilogue

Array = np.ndarray[Any, Any]

# Pixels that a pointwise convolution takes for a row.
CHUNK = 32


@dataclass(frozen=True)
class ConvWindow:
    """A convolution of x (C, H, W) s8 to out (Co, OH, OW), both with channel stride 1 and no bias in memory.

    Positions outside of x count as real zero; `padding` is (top, left), what is below and to the right follows from the
    shapes. A linear layer is a 1x1 convolution over an image of height 1. `epilogue.raw` stores s32 accumulators. The
    output may be the very memory of the residual (same strides), and overlap the operand as `Choice.lead` says.
    """

    x: TensorSpec
    out: TensorSpec
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    epilogue: Epilogue = field(default_factory=Epilogue)
    # Whether the clamp is to the whole range of the output's type.
    saturates: bool = False

    @property
    def depth(self) -> int:
        """Input channels of a group."""
        return self.x.shape[0] // self.groups

    @property
    def count(self) -> int:
        """Output channels of a group."""
        return self.out.shape[0] // self.groups

    @property
    def macs(self) -> int:
        """Multiply-accumulates of the whole layer, padding included."""
        return self.out.size * self.depth * self.kernel[0] * self.kernel[1]

    @property
    def is_depthwise(self) -> bool:
        """One input channel per group, as many outputs as inputs."""
        return self.groups == self.x.shape[0] == self.out.shape[0] and self.groups > 1

    @property
    def is_pointwise(self) -> bool:
        """Every output pixel reads one input pixel, and none lies outside."""
        image, pixels = self.x.shape[1:], self.out.shape[1:]
        within = all((n - 1) * step < size for n, step, size in zip(pixels, self.stride, image, strict=True))
        return self.kernel == (1, 1) and self.padding == (0, 0) and within


@dataclass(frozen=True)
class Layer:
    """The numbers of one layer: weight s8 (Co, C / groups, kh, kw), bias s32 (Co,), the operand's zero point.

    They reach the kernel as constant arguments, so that layers of equal shape share code.
    """

    weight: Array
    bias: Array
    zero: int


def lead(problem: ConvWindow, unread: Callable[[int], int]) -> int:
    """Bytes by which the result must begin before x, so that what is written never reaches what is still to be read.

    Rows of the result are written in order; when row r is, the rows of x before `unread(r)` were read for good.
    """
    (count, rows, columns), (_, down, across) = problem.out.shape, problem.out.strides
    size, most = np.dtype(problem.out.dtype).itemsize, problem.x.shape[1]
    waits = [(row, max(0, unread(row))) for row in range(rows - 1)]
    ends = {row: (row * down + (columns - 1) * across + count) * size for row, _ in waits}
    return max([0, *(ends[row] - first * problem.x.strides[1] for row, first in waits if first < most)])


def folded_bias(layer: Layer) -> Array:
    """The bias less zero point times weights: then products take the operand as it is, and padding is the zero point.

    It fits s32, since the largest sum was proven to, and no operand is further from zero than from the zero point.
    """
    taps = layer.weight.reshape(len(layer.weight), -1).astype(np.int64).sum(1)
    return np.asarray(layer.bias.astype(np.int64) - layer.zero * taps, np.int32)


def chunked(problem: ConvWindow) -> ConvWindow:
    """A pointwise convolution over dense pixels as one over rows of up to CHUNK pixels; anything else as it is.

    Small images have short rows, and what is done once per row costs least with long ones.
    """
    views = [v for v in (problem.x, problem.out, problem.epilogue.residual) if v is not None]
    dense = all(v.shape[1] == 1 or v.strides[1] == v.shape[2] * v.strides[2] for v in views)
    if not problem.is_pointwise or problem.stride != (1, 1) or not dense:
        return problem
    pixels = problem.out.shape[1] * problem.out.shape[2]
    chunk = max(n for n in range(1, CHUNK + 1) if pixels % n == 0)
    form = problem.epilogue
    residual = None if form.residual is None else _rows(form.residual, chunk)
    return replace(
        problem, x=_rows(problem.x, chunk), out=_rows(problem.out, chunk), epilogue=replace(form, residual=residual)
    )


def _rows(spec: TensorSpec, chunk: int) -> TensorSpec:
    channels, height, width = spec.shape
    channel, _, pixel = spec.strides
    return replace(spec, shape=(channels, height * width // chunk, chunk), strides=(channel, chunk * pixel, pixel))
