"""Convolution for aarch64 with the dot-product extension: vectors of four channels, four taps per `sdot`.

    void f(int32 task, x, weights, bias, zero, [multiplier, numbers], [residual], out, scratch)

Four taps of a pixel are repeated in all lanes and meet four taps of four channels. Rows of bytes stand in a ring (see
`gather`) with the zero point as padding, which is folded into the bias.

    weights   s8 [block of channels][kernel row][four taps][vector of the block][channel][4]
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
from fxquant.targets.kernels.simd import argument, bits, load, prim_func
from fxquant.targets.tvm_api import I, T, intrinsic, tirx

LANES = 4
TAPS = 4


@dataclass(frozen=True)
class NeonTile:
    """Pixels and vectors of four channels in registers."""

    pixels: int
    vectors: int


def default_tile(problem: ConvWindow) -> NeonTile:
    """As many sums as fit 32 registers beside weights: four pixels of sixteen channels, or more of fewer."""
    count, _, width = problem.out.shape
    vectors = max(n for n in (1, 2, 4) if count % (n * LANES) == 0)
    return NeonTile(min(width, 4 if vectors == 4 else 8 if vectors == 2 else 12), vectors)


def dotprod(problem: ConvWindow, layer: Layer, numbers: Requantization) -> Choice | None:
    """The choice for s8 convolutions of one group to whole vectors of channels; None for others."""
    is_run = problem.kernel[1] == 1 or problem.dilation[1] == 1
    if problem.x.dtype != "int8" or problem.groups != 1 or not is_run:
        return None
    if problem.out.shape[0] % LANES or problem.epilogue.table:
        return None
    shaped = chunked(problem)
    tile = default_tile(shaped)
    packed: dict[str, np.ndarray[Any, Any]] = {
        "weights": pack(shaped, layer.weight, tile),
        "bias": folded_bias(layer),
        "zero": np.array([layer.zero], np.int8),
        **rounding.constants(problem, numbers),
    }
    overlaps = shaped.out.shape[2] % tile.pixels
    return Choice("sdot", tile, lambda: dotprod_kernel(shaped, tile), packed, in_place=not overlaps)


def _runs(problem: ConvWindow) -> int:
    """Groups of four taps in a kernel row."""
    return ceil(problem.kernel[1] * problem.x.shape[0] / TAPS)


def pack(problem: ConvWindow, weight: np.ndarray[Any, Any], tile: NeonTile) -> np.ndarray[Any, Any]:
    """Weights (Co, C, kh, kw) in the order of the loops."""
    count, channels, height, width = weight.shape
    runs = np.zeros((count, height, _runs(problem) * TAPS), np.int8)
    runs[:, :, : width * channels] = weight.transpose(0, 2, 3, 1).reshape(count, height, -1)
    blocks = runs.reshape(-1, tile.vectors, LANES, height, _runs(problem), TAPS)
    return np.ascontiguousarray(blocks.transpose(0, 3, 4, 1, 2, 5)).reshape(-1)


def dotprod_kernel(problem: ConvWindow, tile: NeonTile) -> Kernel:
    """One task: the whole layer."""
    ring = Ring(problem)
    room = ceil((ring.size + TAPS) / 16) * 16
    with prim_func("conv") as finish:
        _Body(problem, tile, ring, room).emit()
    return Kernel(finish(), 1, room)


class _Body:
    """The function while it is being built."""

    def __init__(self, problem: ConvWindow, tile: NeonTile, ring: Ring, room: int) -> None:
        self.problem, self.tile, self.ring = problem, tile, ring
        count, form = problem.out.shape[0], problem.epilogue
        I.arg("task", I.int32())
        self.x = argument("x", problem.x.extent, "int8", 1)
        self.weights = argument("weights", count * problem.kernel[0] * _runs(problem) * TAPS, "int8", 16)
        self.bias, self.zero = argument("bias", count, "int32", 4), argument("zero", 1, "int8", 1)
        self.numbers = rounding.declare(problem)
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
            blocks = count // (tile.vectors * LANES)
            with I.serial(0, blocks) as block, I.serial(0, ceil(width / tile.pixels)) as group:
                start = group * tile.pixels
                pixel = I.Bind(I.min(start, width - tile.pixels) if width % tile.pixels else start)
                self._tile(row, block, pixel, slots)

    def _pad(self, at: Any, count: int) -> None:
        with I.serial(0, count) as i:
            I.buffer_store(self.scratch, self.zero[0], [at + i])

    def _copy(self, at: Any, source: Any, count: int) -> None:
        with I.serial(0, count) as i:
            I.buffer_store(self.scratch, self.x[source + i], [at + i])

    def _tile(self, row: Any, block: Any, pixel: Any, slots: Any) -> None:
        problem, tile, runs = self.problem, self.tile, _runs(self.problem)
        first = block * (tile.vectors * LANES)
        sums = [(p, v) for p in range(tile.pixels) for v in range(tile.vectors)]
        acc = I.alloc_buffer((len(sums) * LANES,), "int32")
        for at, (_, v) in enumerate(sums):
            _store(acc, at * LANES, load(self.bias, first + v * LANES, LANES), LANES)
        step = tile.vectors * LANES * TAPS
        with I.serial(0, problem.kernel[0]) as tap:
            base = I.Bind(slots[tap] + pixel * self.ring.pixel)
            weights = I.Bind((block * problem.kernel[0] + tap) * (runs * step))
            together = LANES if runs % LANES == 0 else 1
            with I.serial(0, runs // together) as turn:
                starts = [base + p * self.ring.pixel + turn * (together * TAPS) for p in range(tile.pixels)]
                taps = [self._repeated(start, together) for start in starts]
                for k in range(together):
                    at = I.Bind(weights + (turn * together + k) * step)
                    factors = [I.Bind(load(self.weights, at + v * 16, 16)) for v in range(tile.vectors)]
                    for number, (p, v) in enumerate(sums):
                        before = acc.vload([number * LANES], dtype=f"int32x{LANES}")
                        _store(acc, number * LANES, _sdot(before, factors[v], taps[p][k]), LANES)
        for number, (p, v) in enumerate(sums):
            self._out(row, pixel + p, first + v * LANES, acc.vload([number * LANES], dtype=f"int32x{LANES}"))

    def _repeated(self, at: Any, groups: int) -> list[Any]:
        """Four bytes in every lane, for one group of taps or for four that are loaded as one vector."""
        if groups == 1:
            return [I.Bind(bits(T.broadcast(bits(load(self.scratch, at, TAPS), "int32"), LANES), "int8x16"))]
        words = I.Bind(bits(load(self.scratch, at, 16), f"int32x{LANES}"))
        lanes = [[tirx.const(k, "int32")] * LANES for k in range(groups)]
        return [bits(tirx.Shuffle([words], lane), "int8x16") for lane in lanes]

    def _out(self, row: Any, pixel: Any, channel: Any, value: Any) -> None:
        problem, other = self.problem, None
        if self.residual is not None and problem.epilogue.residual is not None:
            _, down, across = problem.epilogue.residual.strides
            loaded = load(self.residual, row * down + pixel * across + channel, LANES)
            other = T.cast(loaded, f"int32x{LANES}")
        _, down, across = problem.out.strides
        _store(
            self.out, row * down + pixel * across + channel, self.numbers.elements(value, channel, LANES, other), LANES
        )


def _store(buffer: Any, at: Any, value: Any, lanes: int) -> None:
    I.buffer_store(buffer, value, [I.ramp(at, 1, lanes)])


def _sdot(acc: Any, a: Any, b: Any) -> Any:
    return intrinsic("llvm.aarch64.neon.sdot", f"int32x{LANES}", acc, a, b)
