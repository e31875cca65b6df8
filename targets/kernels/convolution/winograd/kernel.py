"""Winograd convolution for x86: the kernel of `winograd_math.py`, three steps per task.

1. every tile of (m + 2)^2 input pixels, 16 channels at a time, to s16 planes in the scratch memory;
2. per plane a matrix product (tiles x channels) x (channels x output channels) with `vpmaddwd`, modulo 2^32, see
   `winograd_products.py`;
3. per tile the m x m outputs, the division, and the epilogue.

Where m does not divide the output, the last tile of a row or column overlaps the one before and computes the same
values again: nothing outside of x is read and nothing outside of the output is written.

The function is `void f(int32 task, x, bias, weights, [multiplier, scalars, [table]], [residual], out, scratch)`; the
constants are those of `pack_winograd`, in that order, the weights expanded (see `winograd_weights.py`).
"""

from __future__ import annotations

from math import ceil
from typing import Any

from fxquant.packing import pack
from fxquant.targets.kernels.contract.epilogue import Numbers
from fxquant.targets.kernels.contract.kernel import Kernel
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.convolution.winograd.math import (
    BIAS_SCALE,
    INVERSE,
    SHIFT,
    Array,
    input_transform,
    output_transform,
)
from fxquant.targets.kernels.convolution.winograd.plan import (
    WinogradTile,
    default_winograd_tile,
    is_winograd,
    last_vector_overlaps,
    winograd_plan,
)
from fxquant.targets.kernels.convolution.winograd.products import Products
from fxquant.targets.kernels.convolution.winograd.weights import packed_size, packed_weights, stored_weights
from fxquant.targets.kernels.epilogue.x86 import Row, declare, pack_epilogue, start_sums, store_rows
from fxquant.targets.kernels.parts import params
from fxquant.targets.kernels.words.pieces import load_some, overlapped
from fxquant.targets.kernels.words.tir import argument, bits, load, prim_func, splat
from fxquant.targets.kernels.words.x86 import Isa
from fxquant.targets.tvm_api import I, T


def winograd_kernel(problem: ConvProblem, isa: Isa, tile: WinogradTile | None = None) -> Kernel:
    """The kernel of `problem`; it depends on shapes, strides and flags only.

    Raises ValueError unless `is_winograd(problem, tile.size)`. Exact for weights whose `exact_tiles` has tile.size.
    """
    tile = tile or default_winograd_tile(problem, isa, 4)
    if not is_winograd(problem, tile.size):
        raise ValueError(
            f"winograd: needs 3x3, stride 1 and {tile.size} x {tile.size} outputs per phase, use conv: {problem}"
        )
    with prim_func("winograd") as finish:
        body = _Body(problem, isa, tile)
        body.emit()
    return Kernel(finish(), body.plan.row_tasks * body.plan.block_tasks, body.plan.scratch_words * 4)


def pack_winograd(
    problem: ConvProblem,
    isa: Isa,
    tile: WinogradTile,
    layer: Layer,
    numbers: Numbers,
) -> dict[str, Array]:
    """The constant arguments of `winograd_kernel(problem, isa, tile)`, by name and in its order.

    The weights are `stored_weights`: the kernel wants them as `expand_kernel` makes them. Raises ValueError for weights
    of another shape or dtype.
    """
    layer.require((problem.out.shape[0], problem.x.shape[0], 3, 3))
    bias, _ = _params(problem, isa, tile)
    stored = stored_weights(layer.weight, isa)
    stored = stored if layer.bits == 8 else pack(stored, layer.bits)
    packed = {**params.pack([bias], layer), "weights": stored}
    return {**packed, **pack_epilogue(problem.epilogue, numbers, problem.out, bias.elements)}


def _params(problem: ConvProblem, isa: Isa, tile: WinogradTile) -> list[params.Param]:
    """The layer's constants; weights as they are when they are expanded."""
    plan = winograd_plan(problem, isa, tile)
    channels = max(problem.out.shape[0], plan.width)

    def bias(layer: Layer) -> Array:
        return start_sums(layer, problem, channels, BIAS_SCALE[tile.size])

    def weights(layer: Layer) -> Array:
        return packed_weights(problem, isa, tile, layer.weight)

    return [
        params.Param("bias", channels, "uint32", bias),
        params.Param("weights", packed_size(plan), "int16", weights),
    ]


class _Body:
    """The function body while it is being built."""

    def __init__(self, problem: ConvProblem, isa: Isa, tile: WinogradTile) -> None:
        self.problem, self.isa, self.tile = problem, isa, tile
        self.plan = plan = winograd_plan(problem, isa, tile)
        self.edge = tile.size + 2
        self.count = problem.out.shape[0]
        channels = max(self.count, plan.width)
        self.task: Any = I.arg("task", I.int32())
        self.x = argument("x", problem.x.extent, "uint8", 1)
        self.bias, weights = params.declare(_params(problem, isa, tile)).values()
        self.epilogue = declare(problem.epilogue, isa, channels, self.task)
        residual = problem.epilogue.residual
        self.residual: Any = None if residual is None else argument("residual", residual.extent, residual.dtype, 1)
        self.out = argument("out", problem.out.extent, problem.out.dtype, 1)
        self.scratch = argument("scratch", plan.scratch_words, "int32")
        self.products = Products(isa, plan, weights, self.scratch)

    def emit(self) -> None:
        """One task: transform its inputs, then finish the resident channel blocks one group after the other."""
        plan = self.plan
        piece, group_piece = self.task // plan.block_tasks, self.task % plan.block_tasks
        rows = min(self.tile.rows, plan.tile_rows)
        first_row = I.Bind(overlapped(piece * rows, plan.tile_rows, rows))
        self._each_tile(first_row, self._transform_tile)
        groups = self.tile.blocks // self.tile.resident
        with I.serial(0, groups) as index:
            group = I.Bind(group_piece * groups + index)
            self.products.emit(group)
            self._each_tile(first_row, lambda index, row, column: self._finish_tile(group, index, row, column))

    def _each_tile(self, first_row: Any, visit: Any) -> None:
        """Call visit(index in the task, first output row, first output column) in loops over the tiles of the task."""
        plan, size = self.plan, self.tile.size
        _, height, width = self.problem.out.shape
        with I.serial(0, min(self.tile.rows, plan.tile_rows)) as i, I.serial(0, plan.tile_columns) as j:
            row = I.Bind(_first(first_row + i, height, self.problem.dilation[0], size))
            column = I.Bind(_first(j, width, self.problem.dilation[1], size))
            visit(I.Bind(i * plan.tile_columns + j), row, column)

    def _transform_tile(self, index: Any, row: Any, column: Any) -> None:
        """All channels of one input tile, a vector of s16 at a time."""
        step = 2 * self.isa.lanes
        channels = self.problem.x.shape[0]
        origin = I.Bind(row * self.problem.x.strides[1] + column * self.problem.x.strides[2])
        together = last_vector_overlaps(channels, self.isa)
        whole = ceil(channels / step) if together else channels // step
        if whole:
            with I.serial(0, whole) as block:
                first = I.Bind(overlapped(block * step, channels, step) if together else block * step)
                self._transform(index, origin, first, step)
        if not together and channels % step:
            self._transform(index, origin, channels - channels % step, channels % step)

    def _transform(self, index: Any, origin: Any, first: Any, count: int) -> None:
        lanes, edge, size = self.isa.lanes, self.edge, self.tile.size
        _, row_step, column_step = (
            n * step for n, step in zip(self.problem.x.strides, (1, *self.problem.dilation), strict=True)
        )

        def times(value: Any, factor: int) -> Any:
            return value * splat(factor, "int16", 2 * lanes)

        columns = []
        for x in range(edge):
            places = [origin + first + (y * row_step + x * column_step) for y in range(edge)]
            values = [I.Bind(T.cast(load_some(self.x, at, count, 2 * lanes), f"int16x{2 * lanes}")) for at in places]
            columns.append([I.Bind(value) for value in input_transform(size, values, times)])
        for y in range(edge):
            moved = input_transform(size, [columns[x][y] for x in range(edge)], times)
            for x in range(edge):
                at = (y * edge + x) * self.plan.input_plane + index * self.plan.pair_step + T.floordiv(first, 2)
                I.buffer_store(self.scratch, bits(moved[x], f"int32x{lanes}"), [I.ramp(at, 1, lanes)])

    def _finish_tile(self, group: Any, index: Any, row: Any, column: Any) -> None:
        """The outputs of one tile, a vector of channels at a time."""
        plan = self.plan
        with I.serial(0, self.tile.resident) as resident, I.serial(0, self.tile.vectors) as vector:
            block = I.Bind((group * self.tile.resident + resident) * plan.width)
            lane = I.Bind(vector * self.isa.lanes)
            channel = I.Bind(overlapped(block, self.count, plan.width) + lane)
            self._finish(index, row, column, resident * plan.width + lane, channel)

    def _finish(self, index: Any, row: Any, column: Any, lane: Any, channel: Any) -> None:
        lanes, edge, size = self.isa.lanes, self.edge, self.tile.size

        def times(value: Any, factor: int) -> Any:
            return value * splat(factor, "uint32", lanes)

        columns = []
        for x in range(edge):
            places = [self.products.sum_at(y * edge + x, index, lane) for y in range(edge)]
            values = [I.Bind(bits(load(self.scratch, at, lanes), f"uint32x{lanes}")) for at in places]
            if x == 1:  # the plane of point (1, 1) adds to every output alike
                values[1] = I.Bind(values[1] + load(self.bias, channel, lanes))
            columns.append([I.Bind(value) for value in output_transform(size, values, times)])
        out, other = self.problem.out.strides, (self.problem.epilogue.residual or self.problem.out).strides
        down, across = self.problem.dilation
        for y in range(size):
            scaled = output_transform(size, [columns[x][y] for x in range(edge)], times)
            rows = []
            for x, value in enumerate(scaled):
                sixty_four = bits(times(value, INVERSE[size]), f"int32x{lanes}")
                acc = I.Bind(bits(T.shift_right(sixty_four, splat(SHIFT[size], "int32", lanes)), f"uint32x{lanes}"))
                at = (row + y * down) * out[1] + (column + x * across) * out[2] + channel
                beside = (row + y * down) * other[1] + (column + x * across) * other[2] + channel
                rows.append(Row([acc], channel, at, beside, self.count))
            store_rows(self.epilogue, self.out, rows, self.residual)


def _first(index: Any, length: int, dilation: int, size: int) -> Any:
    """The first output pixel of tile `index` along an axis: the phases' first tiles, then their second ones, ..."""
    if dilation == 1:
        return overlapped(index * size, length, size)
    phase, within = T.floormod(index, dilation), T.floordiv(index, dilation) * size
    if length % (dilation * size):
        within = T.min(within, T.floordiv(length - 1 - phase, dilation) + 1 - size)
    return phase + within * dilation
