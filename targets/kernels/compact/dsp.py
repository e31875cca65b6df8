"""Convolution for Cortex-M cores with the DSP extension (M4, M7, M33): two 16-bit products per `smlad`.

    void f(int32 task, x, weights, bias, scalars, [multiplier, numbers, [table]], [residual], out, scratch)

Operand rows are widened to s16 without their zero point once (see `gather`), weights of a block of channels once per
row of pixels: then four products cost two loads' halves and two `smlad`. A layer of few pixels (fully connected) widens
its weights on the fly.

`sxtb16` widens bytes 0 and 2, and after a rotation 1 and 3: so s16 elements stand in the order 0 2 1 3 in every group
of four. Where a pixel's channels do not fill such groups, the operand keeps its order and the weights are stored in
that order instead.

    weights   s8 [block][kernel row][group][channel of the block][4]
    scalars   the operand's zero point, and the distance of neighbouring pixels: LLVM must not know it, or it finds what
              their windows share, and keeps all that on the stack
    scratch   s16 weights of one block | s16 ring of rows
"""

from __future__ import annotations

from dataclasses import dataclass
from math import ceil
from typing import Any

import numpy as np

from fxquant.targets.kernels.compact import rounding
from fxquant.targets.kernels.compact.gather import Ring, chunked, fill
from fxquant.targets.kernels.compact.problem import ConvWindow, Layer
from fxquant.targets.kernels.epilogue import Requantization
from fxquant.targets.kernels.kernel import Choice, Kernel
from fxquant.targets.kernels.simd import argument, bits, load, prim_func
from fxquant.targets.tvm_api import I, T, intrinsic, tirx

GROUP = 4
ORDER = (0, 2, 1, 3)
# Fewer pixels per row than this, and widening weights ahead does not pay.
LEAST_PIXELS = 4


@dataclass(frozen=True)
class DspTile:
    """Pixels and channels in registers, groups per loop turn, and whether weights are widened ahead."""

    pixels: int
    channels: int
    unroll: int
    ahead: bool


def default_tile(problem: ConvWindow) -> DspTile:
    """Two by two fills the registers; where pixels are few, one of them by two channels."""
    count, _, width = problem.out.shape
    if width < LEAST_PIXELS:
        return DspTile(1, _dividing(count, 2), 2, False)
    return DspTile(2, _dividing(count, 2), 2, True)


def _dividing(count: int, most: int) -> int:
    return max(n for n in range(1, most + 1) if count % n == 0)


def dsp(problem: ConvWindow, layer: Layer, numbers: Requantization, tile: DspTile | None = None) -> Choice | None:
    """The choice for s8 convolutions of one group whose taps lie side by side; None for others."""
    if problem.x.dtype != "int8" or problem.groups != 1 or (problem.kernel[1] > 1 and problem.dilation[1] > 1):
        return None
    shaped = chunked(problem)
    chosen = tile or default_tile(shaped)
    packed: dict[str, np.ndarray[Any, Any]] = {
        "weights": pack(shaped, layer.weight, chosen),
        "bias": layer.bias.astype(np.int32),
        "scalars": np.array([layer.zero, Ring(shaped).pixel // _step(shaped)], np.int32),
        **rounding.constants(problem, numbers),
    }
    overlaps = shaped.out.shape[2] % chosen.pixels
    return Choice("dsp", chosen, lambda: dsp_kernel(shaped, chosen), packed, in_place=not overlaps)


def _groups(problem: ConvWindow) -> int:
    """Groups of four in a kernel row's run of taps."""
    return ceil(problem.kernel[1] * problem.x.shape[0] / GROUP)


def _unroll(problem: ConvWindow, tile: DspTile) -> int:
    """Groups per turn of the inner loop."""
    return max(u for u in range(1, tile.unroll + 1) if _groups(problem) % u == 0)


def _step(problem: ConvWindow) -> int:
    """s16 elements per element of the scratch buffer: words where pixels begin at words."""
    return 2 if _is_reordered(problem) else 1


def _is_reordered(problem: ConvWindow) -> bool:
    """Whether the ring's elements stand in the order of `sxtb16`."""
    return problem.x.shape[0] % GROUP == 0


def pack(problem: ConvWindow, weight: np.ndarray[Any, Any], tile: DspTile) -> np.ndarray[Any, Any]:
    """Weights (Co, C, kh, kw) in the order of the loops."""
    count, channels, height, width = weight.shape
    groups = _groups(problem)
    runs = np.zeros((count, height, groups * GROUP), np.int8)
    runs[:, :, : width * channels] = weight.transpose(0, 2, 3, 1).reshape(count, height, -1)
    quads = runs.reshape(count // tile.channels, tile.channels, height, groups, GROUP)
    if not _is_reordered(problem):
        quads = quads[..., list(ORDER)]
    return np.ascontiguousarray(quads.transpose(0, 2, 3, 1, 4)).reshape(-1)


def dsp_kernel(problem: ConvWindow, tile: DspTile) -> Kernel:
    """One task: the whole layer."""
    ring = Ring(problem)
    block = tile.channels * problem.kernel[0] * _groups(problem) * GROUP
    start = ceil(block / 8) * 8 if tile.ahead else 0
    elements = start + ceil((ring.size + GROUP) / 8) * 8
    with prim_func("conv") as finish:
        _Body(problem, tile, ring, start, block, elements).emit()
    return Kernel(finish(), 1, 2 * elements)


class _Body:
    """The function while it is being built."""

    def __init__(self, problem: ConvWindow, tile: DspTile, ring: Ring, start: int, block: int, elements: int) -> None:
        self.problem, self.tile, self.ring, self.start, self.block = problem, tile, ring, start, block
        count, form = problem.out.shape[0], problem.epilogue
        I.arg("task", I.int32())
        self.x = argument("x", problem.x.extent, "int8", 1)
        self.weights = argument("weights", count // tile.channels * block, "int8", 4)
        self.bias, self.zero = argument("bias", count, "int32", 4), argument("scalars", 2, "int32", 4)
        self.numbers = rounding.declare(problem)
        self.residual = argument("residual", form.residual.extent, form.residual.dtype, 1) if form.residual else None
        self.out = argument("out", problem.out.extent, problem.out.dtype, 1)
        # As words where pixels begin at words: loads of two then become one `ldrd`.
        self.words = _is_reordered(problem)
        self.scratch = (
            argument("scratch", elements // 2, "int32", 4) if self.words else argument("scratch", elements, "int16", 2)
        )

    def emit(self) -> None:
        """Row by row: gather, then all blocks of channels over all pixels."""
        problem, tile = self.problem, self.tile
        count, height, width = problem.out.shape
        slots = I.alloc_buffer((problem.kernel[0],), "int32")
        minus = I.Bind(-self.zero[0])
        self.minus_pair = I.Bind(T.bitwise_or(I.shift_left(minus, 16), T.bitwise_and(minus, 0xFFFF)))
        with I.serial(0, height) as row:
            fill(self.ring, row, self._pad, self._copy)
            with I.unroll(0, problem.kernel[0]) as tap:
                I.buffer_store(slots, (self.start + self.ring.slot(row, tap)) // _step(problem), [tap])
            with I.serial(0, count // tile.channels) as block:
                if tile.ahead:
                    self._widen(block)
                with I.serial(0, ceil(width / tile.pixels)) as group:
                    pixel = I.Bind(
                        I.min(group * tile.pixels, width - tile.pixels) if width % tile.pixels else group * tile.pixels
                    )
                    self._tile(row, block, pixel, slots)

    def _pad(self, at: Any, count: int) -> None:
        step = _step(self.problem)
        with I.serial(0, count // step) as i:
            I.buffer_store(self.scratch, tirx.const(0, self.scratch.dtype), [(self.start + at) // step + i])

    def _copy(self, at: Any, source: Any, count: int) -> None:
        if not _is_reordered(self.problem):
            with I.serial(0, count) as i:
                value = T.cast(self.x[source + i], "int32") - self.zero[0]
                I.buffer_store(self.scratch, T.cast(value, "int16"), [self.start + at + i])
            return
        with I.serial(0, count // GROUP) as i:
            four = I.Bind(bits(load(self.x, source + i * GROUP, GROUP), "int32"))
            for half in (0, 1):
                pair = intrinsic("llvm.arm.sxtab16", "int32", self.minus_pair, _rotated(four, half))
                self._store_pair(self.start + at + i * GROUP + 2 * half, pair)

    def _store_pair(self, at: Any, pair: Any) -> None:
        if self.words:
            I.buffer_store(self.scratch, pair, [at // 2])
        else:
            I.buffer_store(self.scratch, bits(pair, "int16x2"), [I.ramp(at, 1, 2)])

    def _pair(self, base: Any, at: int) -> Any:
        """The pair `at` elements behind `base`, which counts what the scratch is made of."""
        if self.words:
            return I.Bind(self.scratch[base + at // 2])
        return I.Bind(bits(load(self.scratch, base + at, 2), "int32"))

    def _widen(self, block: Any) -> None:
        """The weights of a block, s16."""
        with I.serial(0, self.block // GROUP) as i:
            four = I.Bind(bits(load(self.weights, block * self.block + i * GROUP, GROUP), "int32"))
            for half in (0, 1):
                self._store_pair(i * GROUP + 2 * half, _widened(four, half))

    def _tile(self, row: Any, block: Any, pixel: Any, slots: Any) -> None:
        problem, tile = self.problem, self.tile
        acc = I.alloc_buffer((tile.pixels * tile.channels,), "int32")
        for c in range(tile.channels):
            for p in range(tile.pixels):
                I.buffer_store(acc, self.bias[block * tile.channels + c], [c * tile.pixels + p])
        groups = _groups(problem)
        unroll = _unroll(problem, tile)
        with I.serial(0, problem.kernel[0]) as tap:
            step = _step(problem)
            bases = [I.Bind(slots[tap] + pixel * self.zero[1])]
            for _ in range(1, tile.pixels):
                bases.append(I.Bind(bases[-1] + self.zero[1]))
            run = groups * tile.channels * GROUP
            weights = I.Bind(tap * run // step if tile.ahead else block * self.block + tap * run)
            stride = tile.channels * GROUP // (step if tile.ahead else 1)
            with I.serial(0, groups // unroll) as turn:
                for u in range(unroll):
                    group = I.Bind(turn * unroll + u)
                    self._products(acc, [base + group * (GROUP // step) for base in bases], weights + group * stride)
        for p in range(tile.pixels):
            for c in range(tile.channels):
                self._store(row, pixel + p, block * tile.channels + c, acc[c * tile.pixels + p])

    def _products(self, acc: Any, bases: list[Any], weights: Any) -> None:
        tile = self.tile
        factors = [self._factors(weights, c * GROUP) for c in range(tile.channels)]
        for p in range(tile.pixels):
            pair = [self._pair(bases[p], 2 * half) for half in (0, 1)]
            for c in range(tile.channels):
                for half in (0, 1):
                    at = c * tile.pixels + p
                    total = intrinsic("llvm.arm.smlad", "int32", pair[half], factors[c][half], acc[at])
                    I.buffer_store(acc, total, [at])

    def _factors(self, base: Any, at: int) -> list[Any]:
        if self.tile.ahead:
            return [self._pair(base, at + 2 * half) for half in (0, 1)]
        four = I.Bind(bits(load(self.weights, base + at, GROUP), "int32"))
        return [I.Bind(_widened(four, half)) for half in (0, 1)]

    def _store(self, row: Any, pixel: Any, channel: Any, value: Any) -> None:
        problem, other = self.problem, None
        if self.residual is not None and problem.epilogue.residual is not None:
            _, down, across = problem.epilogue.residual.strides
            other = self.residual[row * down + pixel * across + channel]
        _, down, across = problem.out.strides
        stored = self.numbers.element(value, channel, other)
        I.buffer_store(self.out, stored, [row * down + pixel * across + channel])


def _rotated(four: Any, half: int) -> Any:
    """The word itself, or its bytes 1 and 3 in the places of 0 and 2; LLVM folds the rotation into `sxtb16`."""
    return intrinsic("llvm.fshr.i32", "int32", four, four, tirx.const(8, "int32")) if half else four


def _widened(four: Any, half: int) -> Any:
    return intrinsic("llvm.arm.sxtb16", "int32", _rotated(four, half))
