"""Convolution for Cortex-M cores with Helium (M55, M85): sixteen byte products and their sum per `vmladava`.

    void f(int32 task, x, weights, bias, scalars, [multiplier, numbers, [table]], [residual], out, scratch)

Rows of bytes stand in a ring (see `gather`) with the zero point as padding, and the zero point is folded into the bias.

    weights   s8 [block][kernel row][16 taps][channel of the block][16]
    scalars   zero point, distance of neighbouring pixels (see `dsp`)
    scratch   s8 ring of rows
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from fxquant.targets.kernels.compact import rounding
from fxquant.targets.kernels.compact.gather import Ring, chunked, fill
from fxquant.targets.kernels.compact.problem import ConvWindow, Layer, folded_bias
from fxquant.targets.kernels.epilogue import Requantization
from fxquant.targets.kernels.kernel import Choice, Kernel
from fxquant.targets.kernels.simd import argument, load, prim_func
from fxquant.targets.tvm_api import I, T, intrinsic, tirx

VECTOR = 16
# Channels that are rounded and stored together.
LANES = 4


@dataclass(frozen=True)
class MveTile:
    """Pixels and channels in registers."""

    pixels: int
    channels: int


def default_tile(problem: ConvWindow) -> MveTile:
    """One pixel of four channels, which are rounded as a vector; more pixels where channels are few."""
    count, _, width = problem.out.shape
    channels = max(n for n in range(1, 5) if count % n == 0)
    return MveTile(1 if channels > 2 else min(width, 2), channels)


def mve(problem: ConvWindow, layer: Layer, numbers: Requantization, tile: MveTile | None = None) -> Choice | None:
    """The choice for s8 convolutions of one group whose taps lie side by side; None for others."""
    if problem.x.dtype != "int8" or problem.groups != 1 or (problem.kernel[1] > 1 and problem.dilation[1] > 1):
        return None
    shaped = chunked(problem)
    chosen = tile or default_tile(shaped)
    packed: dict[str, np.ndarray[Any, Any]] = {
        "weights": pack(shaped, layer.weight, chosen),
        "bias": folded_bias(layer),
        "scalars": np.array([layer.zero, Ring(shaped).pixel], np.int32),
        **rounding.constants(problem, numbers),
    }
    overlaps = shaped.out.shape[2] % chosen.pixels
    return Choice("mve", chosen, lambda: mve_kernel(shaped, chosen), packed, in_place=not overlaps)


def _vectors(problem: ConvWindow) -> int:
    """Vectors in a kernel row's run of taps."""
    return ceil(problem.kernel[1] * problem.x.shape[0] / VECTOR)


def pack(problem: ConvWindow, weight: np.ndarray[Any, Any], tile: MveTile) -> np.ndarray[Any, Any]:
    """Weights (Co, C, kh, kw) in the order of the loops."""
    count, channels, height, width = weight.shape
    vectors = _vectors(problem)
    runs = np.zeros((count, height, vectors * VECTOR), np.int8)
    runs[:, :, : width * channels] = weight.transpose(0, 2, 3, 1).reshape(count, height, -1)
    blocks = runs.reshape(count // tile.channels, tile.channels, height, vectors, VECTOR)
    return np.ascontiguousarray(blocks.transpose(0, 2, 3, 1, 4)).reshape(-1)


def mve_kernel(problem: ConvWindow, tile: MveTile) -> Kernel:
    """One task: the whole layer."""
    ring = Ring(problem)
    room = ceil((ring.size + VECTOR) / 16) * 16
    with prim_func("conv") as finish:
        _Body(problem, tile, ring, room).emit()
    return Kernel(finish(), 1, room)


class _Body:
    """The function while it is being built."""

    def __init__(self, problem: ConvWindow, tile: MveTile, ring: Ring, room: int) -> None:
        self.problem, self.tile, self.ring = problem, tile, ring
        count, form = problem.out.shape[0], problem.epilogue
        I.arg("task", I.int32())
        self.x = argument("x", problem.x.extent, "int8", 1)
        self.weights = argument("weights", count * problem.kernel[0] * _vectors(problem) * VECTOR, "int8", 16)
        self.bias, self.scalars = argument("bias", count, "int32", 4), argument("scalars", 2, "int32", 4)
        self.numbers = rounding.declare(problem, MULTIPLY_HIGH)
        self.residual = argument("residual", form.residual.extent, form.residual.dtype, 1) if form.residual else None
        self.out = argument("out", problem.out.extent, problem.out.dtype, 1)
        self.scratch = argument("scratch", room, "int8", 1)

    def emit(self) -> None:
        """Row by row: gather, then all blocks of channels over all pixels."""
        problem, tile = self.problem, self.tile
        count, height, width = problem.out.shape
        slots = I.alloc_buffer((problem.kernel[0],), "int32")
        with I.serial(0, height) as row:
            fill(self.ring, row, self._pad, self._copy)
            for tap in range(problem.kernel[0]):
                I.buffer_store(slots, self.ring.slot(row, tap), [tap])
            with I.serial(0, count // tile.channels) as block, I.serial(0, ceil(width / tile.pixels)) as group:
                start = group * tile.pixels
                pixel = I.Bind(I.min(start, width - tile.pixels) if width % tile.pixels else start)
                self._tile(row, block, pixel, slots)

    def _pad(self, at: Any, count: int) -> None:
        with I.serial(0, count) as i:
            I.buffer_store(self.scratch, T.cast(self.scalars[0], "int8"), [at + i])

    def _copy(self, at: Any, source: Any, count: int) -> None:
        with I.serial(0, count) as i:
            I.buffer_store(self.scratch, self.x[source + i], [at + i])

    def _tile(self, row: Any, block: Any, pixel: Any, slots: Any) -> None:
        problem, tile, vectors = self.problem, self.tile, _vectors(self.problem)
        acc = I.alloc_buffer((tile.pixels * tile.channels,), "int32")
        for c in range(tile.channels):
            for p in range(tile.pixels):
                I.buffer_store(acc, self.bias[block * tile.channels + c], [p * tile.channels + c])
        with I.serial(0, problem.kernel[0]) as tap:
            bases = [I.Bind(slots[tap] + pixel * self.scalars[1])]
            for _ in range(1, tile.pixels):
                bases.append(I.Bind(bases[-1] + self.scalars[1]))
            weights = I.Bind((block * problem.kernel[0] + tap) * (vectors * tile.channels * VECTOR))
            with I.serial(0, vectors) as k:
                at = I.Bind(weights + k * (tile.channels * VECTOR))
                factors = [I.Bind(load(self.weights, at + c * VECTOR, VECTOR)) for c in range(tile.channels)]
                for p in range(tile.pixels):
                    taps = I.Bind(load(self.scratch, bases[p] + k * VECTOR, VECTOR))
                    for c in range(tile.channels):
                        total = _multiply_add(taps, factors[c], acc[p * tile.channels + c])
                        I.buffer_store(acc, total, [p * tile.channels + c])
        lanes = LANES if tile.channels % LANES == 0 and not problem.epilogue.table else 1
        for p in range(tile.pixels):
            for c in range(0, tile.channels, lanes):
                self._store(row, pixel + p, block * tile.channels + c, acc, p * tile.channels + c, lanes)

    def _store(self, row: Any, pixel: Any, channel: Any, acc: Any, first: int, lanes: int) -> None:
        problem, other = self.problem, None
        if self.residual is not None and problem.epilogue.residual is not None:
            _, down, across = problem.epilogue.residual.strides
            other = _wide(self.residual, row * down + pixel * across + channel, lanes)
        _, down, across = problem.out.strides
        at = row * down + pixel * across + channel
        value = acc.vload([first], dtype=f"int32x{lanes}") if lanes > 1 else acc[first]
        stored = self.numbers.elements(value, channel, lanes, other)
        I.buffer_store(self.out, stored, [I.ramp(at, 1, lanes) if lanes > 1 else at])


def _wide(buffer: Any, at: Any, lanes: int) -> Any:
    return T.cast(load(buffer, at, lanes), f"int32x{lanes}") if lanes > 1 else T.cast(buffer[at], "int32")


def _multiply_add(a: Any, b: Any, acc: Any) -> Any:
    """acc + the sum of sixteen s8 products."""
    none = tirx.const(0, "int32")
    return intrinsic("llvm.arm.mve.vmldava", "int32", none, none, none, acc, a, b)


def _high(name: str) -> rounding.Multiply:
    return lambda a, b: intrinsic(name, "int32x4", a, b, tirx.const(0, "int32"))


MULTIPLY_HIGH = rounding.MultiplyHigh(_high("llvm.arm.mve.vrmulh"), _high("llvm.arm.mve.vmulh"))
