"""Depthwise convolution with three rows of taps, four bytes per 32-bit lane: two rows of pixels from four of the input.

A tile first interleaves its input, column by column, into scratch memory: lane c holds channel c of the input rows 0,
2, 1, 3. Every column then serves both rows of pixels, of which the upper one gives row 3 the weight 0 and the lower one
row 0, and a product is a quad dot product (`dot_quads`). With a vertical stride a tile is one row of pixels, and the
fourth byte is any. Against two taps at a time (`depthwise.py`) that is a fifth fewer instructions.

On "maddubs" two products are added in 16 bits. In this order only the two outer taps of a kernel's column meet there,
for both rows of pixels; where the weights of any channel do not leave room for that, `takes_quads` is False and the
layer belongs to `depthwise.py`.

The function is `void f(int32 task, x, bias, weights, [multiplier, scalars, [table]], [residual], out, scratch)`; the
constants are those of `pack_depthwise_quads`, in that order. It reads no byte outside of x.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from math import ceil
from typing import Any

import numpy as np

from fxquant import geometry
from fxquant.targets.kernels.contract.epilogue import Numbers
from fxquant.targets.kernels.contract.kernel import Kernel
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.depthwise.pairs import PIECES
from fxquant.targets.kernels.epilogue.x86 import GROUP, Row, declare, pack_epilogue, start_sums, store_rows
from fxquant.targets.kernels.parts import params
from fxquant.targets.kernels.parts.operand import QUADS
from fxquant.targets.kernels.words.pieces import dealt, overlapped, shuffle, starts
from fxquant.targets.kernels.words.tir import argument, load, prim_func
from fxquant.targets.kernels.words.x86 import NARROW_REACH, Isa, dot_quads
from fxquant.targets.tvm_api import I

Array = np.ndarray[Any, Any]

HEIGHT = geometry.QUAD_ROWS  # of taps
BLOCK = geometry.QUAD_CHANNELS  # that are interleaved together
ORDER = (0, 2, 1, 3)  # of input rows in a lane
# Dwords of a block's channels, such that unpacking bytes and then words, each within 128 bits, leaves them in order.
SPREAD = (0, 2, 4, 6, 1, 3, 5, 7)
MAX_COLUMNS = 16


@dataclass(frozen=True)
class QuadTile:
    """`columns` consecutive pixels of one row, or of two where the vertical stride is 1, times a block of channels."""

    columns: int


def is_quads(problem: ConvProblem, isa: Isa) -> bool:
    """True for the geometries of this kernel: 3 rows of taps, at least a block of channels and one output for each."""
    channels, outputs = problem.x.shape[0], problem.out.shape[0]
    fits = geometry.is_quads(channels, outputs, problem.groups, problem.kernel, problem.dilation)
    return fits and isa.lanes * QUADS.taps == BLOCK


def takes_quads(isa: Isa, weight: Array) -> bool:
    """True if these weights, int8 (Co, 1, 3, kw), cannot saturate a sum of two products."""
    if isa.exact_quads:
        return True
    outer = weight[:, 0, [0, HEIGHT - 1]].astype(np.int16)
    return all(int(side.clip(0).sum(1).max(initial=0)) <= NARROW_REACH for side in (outer, -outer))


def default_quad_tile(problem: ConvProblem, isa: Isa) -> QuadTile:
    """The tile that the cost model likes best."""
    return ranked_quad_tiles(problem, isa)[0]


@lru_cache(maxsize=4096)
def ranked_quad_tiles(problem: ConvProblem, _isa: Isa) -> list[QuadTile]:
    """The tiles by modelled cost, the best first."""
    columns = problem.out.shape[2]

    def cost(count: int) -> float:
        inputs = len(_input_columns(problem, count))
        return ceil(columns / count) * (16 * inputs + 4 * (inputs + 20 * count * _rows_at_once(problem)) + 30)

    return [QuadTile(count) for count in sorted(range(min(columns, MAX_COLUMNS), 0, -1), key=cost)]


def depthwise_quads_kernel(problem: ConvProblem, isa: Isa, tile: QuadTile | None = None) -> Kernel:
    """The kernel of `problem`, which depends on shapes, strides and flags only; ValueError unless `is_quads`."""
    if not is_quads(problem, isa):
        raise ValueError(f"depthwise: quads need 3 rows of taps and {BLOCK} channels, use depthwise: {problem}")
    with prim_func("depthwise_quads") as finish:
        body = _Body(problem, isa, tile or default_quad_tile(problem, isa))
        tasks = body.emit()
    return Kernel(finish(), tasks, body.scratch)


def pack_depthwise_quads(problem: ConvProblem, isa: Isa, layer: Layer, numbers: Numbers) -> dict[str, Array]:
    """The constant arguments of the kernel for any tile, by name and in order.

    Packed weights are s8 [block of channels][vector][kernel column][row of pixels][lane][4]. Raises ValueError for
    weights of another shape or dtype, or that `takes_quads` refuses.
    """
    layer.require((problem.out.shape[0], 1, HEIGHT, problem.kernel[1]))
    if not takes_quads(isa, layer.weight):
        raise ValueError("depthwise: two products of these weights do not fit a sum of 16 bits, use depthwise")
    rounding = pack_epilogue(problem.epilogue, numbers, problem.out, problem.out.shape[0])
    return {**params.pack(_params(problem, isa), layer), **rounding}


def _params(problem: ConvProblem, isa: Isa) -> list[params.Param]:
    count, width, rows = problem.out.shape[0], problem.kernel[1], _rows_at_once(problem)

    def weights(layer: Layer) -> Array:
        quads = np.zeros((count, width, rows, QUADS.taps), np.int8)
        for row in range(rows):
            for tap in range(HEIGHT):
                quads[:, :, row, ORDER.index(tap + row)] = layer.weight[:, 0, tap]
        blocks = np.stack([quads[first : first + BLOCK] for first in starts(count, BLOCK)])
        return blocks.reshape(len(blocks), -1, isa.lanes, width, rows, QUADS.taps).transpose(0, 1, 3, 4, 2, 5)

    size = ceil(count / BLOCK) * BLOCK * width * rows * QUADS.taps
    return [
        params.Param("bias", count, "uint32", lambda layer: start_sums(layer, problem, count)),
        params.Param("weights", size, "int8", weights),
    ]


def _rows_at_once(problem: ConvProblem) -> int:
    return 2 if problem.stride[0] == 1 and problem.out.shape[1] > 1 else 1


def _input_columns(problem: ConvProblem, count: int) -> list[int]:
    """The input columns that `count` neighbouring pixels read, counted from the first one."""
    taps = [tap * problem.dilation[1] for tap in range(problem.kernel[1])]
    return sorted({pixel * problem.stride[1] + tap for pixel in range(count) for tap in taps})


class _Body:
    """The function body while it is being built."""

    def __init__(self, problem: ConvProblem, isa: Isa, tile: QuadTile) -> None:
        self.problem, self.isa, self.tile = problem, isa, tile
        self.count, self.rows, self.columns = problem.out.shape
        self.residual_spec = problem.epilogue.residual or problem.out
        self.rows_at_once = _rows_at_once(problem)
        self.inputs = _input_columns(problem, tile.columns)
        self.blocks = ceil(self.count / BLOCK)
        self.vectors = BLOCK // isa.lanes
        self.steps = problem.kernel[1] * self.rows_at_once
        self.task: Any = I.arg("task", I.int32())
        self.x = argument("x", problem.x.extent, "uint8", 1)
        self.bias, self.weights = params.declare(_params(problem, isa)).values()
        self.epilogue = declare(problem.epilogue, isa, self.count, self.task)
        residual = problem.epilogue.residual
        self.residual: Any = None if residual is None else argument("residual", residual.extent, residual.dtype, 1)
        self.out = argument("out", problem.out.extent, problem.out.dtype, 1)
        self.scratch = len(self.inputs) * BLOCK * QUADS.taps
        self.mixed = argument("scratch", self.scratch, "uint8")

    def emit(self) -> int:
        """All tiles of one task; returns how many tasks there are."""
        turns = ceil(self.rows / self.rows_at_once)
        rows, blocks, tasks = dealt(self.task, turns, self.blocks, PIECES)
        with I.serial(*rows) as turn, I.serial(*blocks) as block:
            row = I.Bind(overlapped(turn * self.rows_at_once, self.rows, self.rows_at_once))
            channel = I.Bind(overlapped(block * BLOCK, self.count, BLOCK))
            # Vectors of the last block that the one before has computed are left out.
            first = I.Bind((block * BLOCK - channel) // self.isa.lanes)
            with I.serial(0, ceil(self.columns / self.tile.columns)) as index:
                column = I.Bind(overlapped(index * self.tile.columns, self.columns, self.tile.columns))
                self._tile(row, column, block, channel, first)
        return tasks

    def _tile(self, row: Any, column: Any, block: Any, channel: Any, first: Any) -> None:
        self._interleave(row, column, channel)
        with I.serial(first, self.vectors) as vector:
            self._products(row, column, block * self.vectors + vector, channel, vector)

    def _interleave(self, row: Any, column: Any, channel: Any) -> None:
        """All input columns of the tile, as quads in the order of the channels."""
        (down, across), (step_down, step_across) = self.problem.x.strides[1:], self.problem.stride
        origin = I.Bind(row * (step_down * down) + column * (step_across * across) + channel)
        for place, distance in enumerate(self.inputs):
            lines = []
            for input_row in range(HEIGHT + self.rows_at_once - 1):
                line = load(self.x, origin + (input_row * down + distance * across), BLOCK)
                order = [4 * dword + byte for dword in SPREAD for byte in range(4)]
                lines.append(I.Bind(shuffle([I.Bind(line)], order)))
            lines += lines[1:2] * (QUADS.taps - len(lines))  # any byte will do where all weights are 0
            pairs = [_unpacked(lines[ORDER[i]], lines[ORDER[i + 1]], 1) for i in (0, 2)]
            quads = [half for upper, lower in zip(*pairs, strict=True) for half in _unpacked(upper, lower, 2)]
            for vector, quad in enumerate(quads):
                I.buffer_store(self.mixed, quad, [I.ramp((place * self.vectors + vector) * BLOCK, 1, BLOCK)])

    def _products(self, row: Any, column: Any, weights: Any, channel: Any, vector: Any) -> None:
        """All pixels of one vector of channels, input columns from left to right, so that few sums live at a time."""
        lanes, size = self.isa.lanes, BLOCK
        at = I.Bind(channel + vector * lanes)
        bias = I.Bind(load(self.bias, at, lanes))
        start = weights * (self.steps * size)
        taps = [I.Bind(load(self.weights, start + step * size, size)) for step in range(self.steps)]
        sums: dict[tuple[int, int], Any] = {}
        left = Counter(pixel for _, pixel, _ in self._uses())
        done: list[Row] = []
        for place, pixel, step in self._uses():
            quad = load(self.mixed, (place * self.vectors + vector) * size, size)
            sums[pixel] = I.Bind(dot_quads(self.isa, sums.get(pixel, bias), I.Bind(quad), taps[step]))
            left[pixel] -= 1
            if left[pixel] == 0:
                done.append(self._row(sums.pop(pixel), at, row + pixel[0], column + pixel[1]))
                if len(done) == GROUP // lanes:
                    store_rows(self.epilogue, self.out, done, self.residual)
                    done = []
        store_rows(self.epilogue, self.out, done, self.residual)

    def _uses(self) -> Iterator[tuple[int, tuple[int, int], int]]:
        """(place of an input column, pixel of the tile, index of the weights) of every product."""
        stride, dilation = self.problem.stride[1], self.problem.dilation[1]
        for place, distance in enumerate(self.inputs):
            for pixel in range(self.tile.columns):
                tap, rest = divmod(distance - pixel * stride, dilation)
                if rest == 0 and 0 <= tap < self.problem.kernel[1]:
                    for row in range(self.rows_at_once):
                        yield place, (row, pixel), tap * self.rows_at_once + row

    def _row(self, total: Any, channel: Any, row: Any, column: Any) -> Row:
        out, other = (
            row * spec.strides[1] + column * spec.strides[2] + channel
            for spec in (self.problem.out, self.residual_spec)
        )
        return Row([total], channel, out, other, self.isa.lanes)


def _unpacked(a: Any, b: Any, size: int) -> list[Any]:
    """`vpunpckl` and `vpunpckh` of 32 bytes: elements of `size` bytes in turn, within each 128 bits."""
    halves = []
    for high in (0, 1):
        order = []
        for lane in (0, 16):
            for element in range(8 // size):
                first = lane + 8 * high + element * size
                order += [side * BLOCK + first + byte for side in (0, 1) for byte in range(size)]
        halves.append(I.Bind(shuffle([a, b], order)))
    return halves
