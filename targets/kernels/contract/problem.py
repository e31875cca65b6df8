"""A convolution to be computed, and its numbers: what every template of the operation takes, whatever the machine."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fxquant.bounds import Bounds, sum_bounds
from fxquant.targets.kernels.contract.epilogue import Epilogue, Rounded
from fxquant.targets.kernels.contract.kernel import TensorSpec

Array = np.ndarray[Any, Any]


@dataclass(frozen=True)
class ConvProblem:
    """A convolution of x (C, H, W) to out (Co, OH, OW), both with channel stride 1.

    Positions outside of x count as real zero; `padding` is (top, left), what is below and to the right follows from the
    shapes. Where a border lies around x in memory, x is the view with the border, and nothing is outside of it. A 1-d
    convolution has height 1, and a linear layer is a 1x1 convolution over such an image. Raises ValueError for
    channels that do not lie side by side or do not divide into the groups.

    `pieces` are the tasks that the caller would like; kernels that have tasks of their own size do not look at it.
    `weight_bits` are those of a weight where the kernel reads it: fewer than 8 where it has to widen them itself.
    """

    x: TensorSpec
    out: TensorSpec
    kernel: tuple[int, int]
    stride: tuple[int, int] = (1, 1)
    dilation: tuple[int, int] = (1, 1)
    padding: tuple[int, int] = (0, 0)
    groups: int = 1
    epilogue: Epilogue = field(default_factory=Rounded)
    pieces: int = 1
    weight_bits: int = 8

    def __post_init__(self) -> None:
        channels, outputs = self.x.shape[0], self.out.shape[0]
        if channels > 1 and self.x.strides[0] != 1:
            raise ValueError(f"conv: x must have channel stride 1, got {self.x}")
        self.epilogue.check(self.out)
        if self.groups < 1 or channels % self.groups or outputs % self.groups:
            raise ValueError(f"conv: {channels} -> {outputs} channels do not divide into {self.groups} groups")

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
        return self.kernel == (1, 1) and self.is_inside

    @property
    def is_inside(self) -> bool:
        """Whether nothing outside of x is read."""
        axes = zip(self.out.shape[1:], self.stride, self.kernel, self.dilation, self.x.shape[1:], strict=True)
        return self.padding == (0, 0) and all((n - 1) * s + (k - 1) * d < size for n, s, k, d, size in axes)


@dataclass(frozen=True, eq=False)
class Layer:
    """The numbers of one layer: weight s8 (Co, C / groups, kh, kw), bias s32 (Co,), the operand's zero point.

    They reach the kernel as constant arguments, so that layers of equal shape share code. `bits` are what a weight
    takes in a file, or in flash.
    """

    weight: Array
    bias: Array
    zero: int
    bits: int = 8
    _bounds: dict[tuple[int, int], Bounds] = field(default_factory=dict, init=False, repr=False)

    def bounds(self, x: TensorSpec) -> Bounds:
        """The least and the greatest sum of each channel, over all that `x` can hold."""
        info = np.iinfo(x.dtype)
        ends = int(info.min) - x.bias, int(info.max) - x.bias
        if ends not in self._bounds:
            self._bounds[ends] = sum_bounds(self.weight, self.bias, self.zero, *ends)
        return self._bounds[ends]

    def folded_bias(self, x: TensorSpec) -> Array:
        """The bias less zero point times weights, s64: products then take `x` as memory holds it, and padding is zero.

        With s8 as it is, it fits s32: the largest sum was proven to, and no operand is further from zero than from the
        zero point. What memory adds to `x` is taken off modulo 2^32, as the products are added.
        """
        taps = self.weight.reshape(len(self.weight), -1).sum(1, dtype=np.int64)
        return np.asarray(self.bias.astype(np.int64) - (self.zero + x.bias) * taps)

    def require(self, shape: tuple[int, ...]) -> None:
        """Raise ValueError unless weights are s8 of this shape (Co, C / groups, kh, kw)."""
        if self.weight.shape != shape or self.weight.dtype != np.int8:
            raise ValueError(f"expected int8 weights {shape}, got {self.weight.dtype} {self.weight.shape}")
