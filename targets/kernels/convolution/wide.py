"""Convolution for operands that no fast kernel takes (16-bit activations): a plain loop, raw s32 accumulators out.

    void f(int32 task, x, weight, bias, zero, out)        out = sum((x - zero) * weight) + bias

The operand has its padding around it. The caller has proven that no sum leaves 32 bits.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import prod
from typing import Any

from fxquant.targets.kernels.contract.kernel import Kernel, TensorSpec
from fxquant.targets.kernels.elementwise.map import Operand, cut, nest
from fxquant.targets.kernels.words.tir import argument, prim_func
from fxquant.targets.tvm_api import I, T


def plain_conv_kernel(
    x: TensorSpec, weight: TensorSpec, out: TensorSpec, stride: tuple[int, int], dilation: tuple[int, int]
) -> Kernel:
    """`x` (C, H, W), `weight` (Co, C / groups, kh, kw) and `out` (Co, H', W') with any strides; `out` is s32."""
    channels = weight.shape[1]
    per_group = out.shape[0] * channels // x.shape[0]
    with prim_func("plain_conv") as finish:
        task: Any = I.arg("task", I.int32())
        source, kernel = Operand("x", x), Operand("weight", weight)
        bias = argument("bias", out.shape[0], "int32", 4)
        zero = argument("zero", 1, "int32", 4)
        target = argument("out", out.extent, "int32", 4)
        acc = I.alloc_buffer((1,), "int32")
        axes = sorted((a for a in range(3) if out.shape[a] > 1), key=lambda a: -out.strides[a])
        tasks, split = cut(out, axes, prod(weight.shape[1:]))

        def element(index: list[Any]) -> None:
            channel, row, column = index
            first = channel // per_group * channels
            I.buffer_store(acc, T.cast(bias[channel], "int32"), [0])

            def tap(i: Any, y: Any, z: Any) -> None:
                value = source(first + i, row * stride[0] + y * dilation[0], column * stride[1] + z * dilation[1])
                I.buffer_store(acc, acc[0] + (value - zero[0]) * kernel(channel, i, y, z), [0])

            _loops(weight.shape[1:], tap)
            at: Any = 0
            for axis in axes:
                at = at + index[axis] * out.strides[axis]
            I.buffer_store(target, acc[0], [at])

        nest(task, tasks, out.shape, axes, split, element)
    return Kernel(finish(), tasks)


def _loops(sizes: Sequence[int], body: Any) -> None:
    """Three serial loops."""
    with I.serial(0, sizes[0]) as a, I.serial(0, sizes[1]) as b, I.serial(0, sizes[2]) as c:
        body(a, b, c)
