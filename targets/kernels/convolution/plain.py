"""Convolution by plain loops, for any toolchain: no scratch, no vectors, edges tested per window.

    void f(int32 task, x, weights, bias, zero, [multiplier, numbers, [table]], [residual], out)

Every geometry is computed: groups, dilation, padding, strides. The window is cut to the image before it is summed, so
that the inner loop over channels has no test.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np

from fxquant.targets.kernels.contract.epilogue import Numbers
from fxquant.targets.kernels.contract.kernel import Choice, Declined, Kernel
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.contract.template import Template
from fxquant.targets.kernels.epilogue import rounding
from fxquant.targets.kernels.parts.params import Param, declare, pack
from fxquant.targets.kernels.parts.weights import Stored
from fxquant.targets.kernels.words.tir import argument, prim_func
from fxquant.targets.tvm_api import I, T, tirx


class Plain(Template):
    """Every problem that there is."""

    NAME = "plain"

    def declines(self, problem: ConvProblem, layer: Layer) -> Declined | None:
        """Nothing."""
        return None

    def tiles(self, problem: ConvProblem, layer: Layer) -> Sequence[None]:
        """There is one way."""
        return (None,)

    def choice(self, problem: ConvProblem, layer: Layer, numbers: Numbers, tile: None) -> Choice:
        """The loops, with weights in their order."""
        packed = {**pack(params(problem), layer), **rounding.constants(problem, numbers)}
        return Choice(self.NAME, tile, partial(plain_kernel, problem), packed)


def params(problem: ConvProblem) -> list[Param]:
    """The layer's constants, weights as [channel][kernel row][kernel column][input channel]."""
    count = problem.out.shape[0]
    taps = count * problem.depth * problem.kernel[0] * problem.kernel[1]
    return [
        Stored(problem.weight_bits).param(1, taps, lambda layer: layer.weight.transpose(0, 2, 3, 1), 1),
        Param("bias", count, "int32", lambda layer: layer.bias.astype(np.int32), align=4),
        Param("zero", 1, "int32", lambda layer: np.array([layer.zero], np.int32), align=4),
    ]


def plain_kernel(problem: ConvProblem) -> Kernel:
    """One task: the whole layer."""
    x, out, form = problem.x, problem.out, problem.epilogue
    (channels, _, _), (count, height, width) = x.shape, out.shape
    depth, per_group = channels // problem.groups, count // problem.groups
    with prim_func("conv") as finish:
        I.arg("task", I.int32())
        source = argument("x", x.extent, x.dtype, 1)
        weights, bias, zero = declare(params(problem)).values()
        numbers = rounding.declare(problem)
        residual = argument("residual", form.residual.extent, form.residual.dtype, 1) if form.residual else None
        target = argument("out", out.extent, out.dtype, 1)
        acc = I.alloc_buffer((1,), "int32")
        with I.serial(0, height) as row, I.serial(0, width) as column, I.serial(0, count) as channel:
            top, first_y, last_y = _span(problem, 0, row)
            left, first_x, last_x = _span(problem, 1, column)
            first = channel // per_group * depth if problem.groups > 1 else 0
            I.buffer_store(acc, bias[channel], [0])
            with I.serial(first_y, last_y) as y, I.serial(first_x, last_x) as z:
                at = I.Bind(
                    (top + y * problem.dilation[0]) * x.strides[1]
                    + (left + z * problem.dilation[1]) * x.strides[2]
                    + first
                )
                tap = I.Bind(((channel * problem.kernel[0] + y) * problem.kernel[1] + z) * depth)
                _sum(problem, acc, (source, at, zero[0]), weights, tap)
            other = None
            if residual is not None and form.residual is not None:
                _, down, across = form.residual.strides
                other = residual[row * down + column * across + channel]
            value = numbers.element(acc[0], channel, other)
            I.buffer_store(target, value, [row * out.strides[1] + column * out.strides[2] + channel])
    return Kernel(finish(), 1)


def _sum(problem: ConvProblem, acc: Any, pixel: tuple[Any, Any, Any], weights: Any, tap: Any) -> None:
    """Add the products of a pixel's channels (where, from which element on, less which zero point).

    Those whose weights share a byte are added at once, where it is theirs alone.
    """
    source, at, zero = pixel
    stored, depth = Stored(problem.weight_bits), problem.depth
    step = stored.count if depth % stored.count == 0 else 1
    with I.serial(0, depth // step) as k:
        if step == 1:
            found = [stored.element(weights, tap + k)]
        else:
            found = stored.parts(I.Bind(weights[I.shift_right(tap, _log(step)) + k]))
        for number, weight in enumerate(found):
            value = T.cast(source[at + (k * step + number)], "int32") - zero
            I.buffer_store(acc, acc[0] + value * weight, [0])


def _log(count: int) -> Any:
    return tirx.const(count.bit_length() - 1, "int32")


def _span(problem: ConvProblem, axis: int, position: Any) -> tuple[Any, Any, Any]:
    """First input position of a window along an axis, and which of its taps lie inside: from, to."""
    size, step = problem.x.shape[axis + 1], problem.dilation[axis]
    start = I.Bind(position * problem.stride[axis] - problem.padding[axis])
    before = I.max(0, (step - 1 - start) // step)
    after = I.min(problem.kernel[axis], (size - start + step - 1) // step)
    return start, I.Bind(before), I.Bind(after)
