"""Pixels of few channels from float planes to interleaved bytes: `void f(int32 task, x, scale, numbers, out)`.

    x float32 (C, H, W), columns contiguous   =>   out bytes (C, H, W), channels innermost, C <= 4

`scale` is one float32, `numbers` s32: zero point, qmin, qmax. One vector of columns at a time: the channels are rounded
side by side, put into one 32-bit lane per pixel, and stored without the bytes that no channel has. The last vector of a
row overlaps the one before.
"""

from __future__ import annotations

from functools import partial
from math import ceil
from typing import Any

from fxquant.targets.kernels.contract.kernel import Choice, Kernel, TensorSpec
from fxquant.targets.kernels.contract.operations import Pixels
from fxquant.targets.kernels.contract.template import Maker
from fxquant.targets.kernels.words.tir import argument, bits, load, prim_func, splat
from fxquant.targets.kernels.words.x86 import Isa
from fxquant.targets.tvm_api import I, T, tirx

MOST_CHANNELS = 4  # bytes of a 32-bit lane
TASK_PIXELS = 8192
INFINITY_BITS = 0x7F800000


def takes(x: TensorSpec, out: TensorSpec, isa: Isa) -> bool:
    """Whether `pixels_kernel` is for these: images (C, H, W) in planes, and the same interleaved."""
    if len(x.shape) != 3 or x.dtype != "float32" or out.dtype not in ("uint8", "int8"):
        return False
    channels, _, columns = x.shape
    planes = x.strides[2] == 1 and channels <= MOST_CHANNELS and columns >= isa.lanes
    return planes and (channels == 1 or out.strides[0] == 1) and out.strides[2] == channels


def vectors(isa: Isa) -> Maker:
    """The template."""

    def make(problem: Pixels, _numbers: None) -> Choice | None:
        if not takes(problem.x, problem.out, isa):
            return None
        return Choice("pixels", None, partial(pixels_kernel, problem.x, problem.out, isa, problem.inverse), {})

    return make


def pixels_kernel(x: TensorSpec, out: TensorSpec, isa: Isa, inverse: bool = False) -> Kernel:
    """out = clamp(round_half_even(x / scale) + zero point); NaN becomes the zero point. Rows are cut into tasks.

    With `inverse` it is x * (1 / scale), as scales of run time are applied.
    """
    channels, rows, columns = x.shape
    tasks = min(rows, ceil(rows * columns / TASK_PIXELS))
    with prim_func("pixels") as finish:
        task: Any = I.arg("task", I.int32())
        source = argument("x", x.extent, x.dtype, 4)
        scale, numbers = argument("scale", 1, "float32", 4), argument("numbers", 3, "int32", 4)
        target = argument("out", out.extent, out.dtype, 1)
        ends = [I.Bind(T.cast(numbers[k] - numbers[0], "float32")) for k in (1, 2)]
        zero, unit = (
            I.Bind(numbers[0] + out.bias),
            I.Bind(tirx.const(1.0, "float32") / scale[0] if inverse else scale[0]),
        )
        first, last = task * rows // tasks, (task + 1) * rows // tasks
        with I.serial(first, last) as row, I.serial(0, ceil(columns / isa.lanes)) as step:
            column = I.Bind(T.min(step * isa.lanes, columns - isa.lanes))
            pixels: Any = None
            for channel in range(channels):
                at = channel * x.strides[0] + row * x.strides[1] + column
                value, divisor = load(source, at, isa.lanes), T.broadcast(unit, isa.lanes)
                rounded = _rounded(value * divisor if inverse else value / divisor, ends, isa.lanes)
                byte = T.bitwise_and(rounded + T.broadcast(zero, isa.lanes), splat(255, "int32", isa.lanes))
                moved = T.shift_left(byte, splat(8 * channel, "int32", isa.lanes))
                pixels = I.Bind(moved if pixels is None else T.bitwise_or(pixels, moved))
            _store(target, row * out.strides[1] + column * channels, pixels, channels, isa.lanes)
    return Kernel(finish(), tasks)


def _rounded(x: Any, ends: list[Any], lanes: int) -> Any:
    """x as s32, between the ends; NaN is 0, and x is only NaN where the pixel is."""
    magnitude = T.bitwise_and(bits(x, f"int32x{lanes}"), splat(0x7FFFFFFF, "int32", lanes))
    number = magnitude <= splat(INFINITY_BITS, "int32", lanes)
    steps = T.nearbyint(x)
    steps = tirx.Select(number, steps, T.broadcast(tirx.const(0.0, "float32"), lanes))
    low, high = (T.broadcast(end, lanes) for end in ends)
    return T.cast(T.min(T.max(steps, low), high), f"int32x{lanes}")


def _store(target: Any, at: Any, pixels: Any, channels: int, lanes: int) -> None:
    """The first `channels` bytes of each lane, one after the other."""
    packed = bits(pixels, f"{target.dtype}x{4 * lanes}")
    if channels < MOST_CHANNELS:
        kept = [4 * lane + channel for lane in range(lanes) for channel in range(channels)]
        packed = tirx.Shuffle([packed], [tirx.const(byte, "int32") for byte in kept])
    I.buffer_store(target, packed, [I.ramp(at, 1, channels * lanes)])
