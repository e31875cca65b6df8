"""Direct convolution for x86: every geometry through one loop over four-byte windows of the input.

The function is `void f(int32 task, x, bias, weights, offsets, blocks, [multiplier, scalars, [table]], [residual], out,
[scratch])`; the constants are those of `pack_conv`, in that order. There is no packing of activations and no im2col: a
window is broadcast straight from the input, and a tile of pixels x channels stays in registers from the bias to the
stored bytes. Only where weights ask for s16 products does a task first widen its part of the input into `scratch`.
Constants and scratch start at multiples of 64 bytes; x, residual and out anywhere.
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil
from typing import Any

from fxquant.targets.kernels.conv_pack import DOUBLE, FIELDS, KINDS, NARROW, WIDE, padded_channels
from fxquant.targets.kernels.conv_plan import QUAD, ConvProblem, windows
from fxquant.targets.kernels.conv_tile import (
    Tile,
    block_starts,
    default_tile,
    doubles_per_turn,
    fetches_ahead,
    pixel_grid,
    task_grid,
    task_reach,
)
from fxquant.targets.kernels.epilogue import EpilogueArguments, Row, declare, store_rows
from fxquant.targets.kernels.kernel import Kernel
from fxquant.targets.kernels.simd import (
    LINE_BYTES,
    Isa,
    argument,
    bits,
    broadcast_pair,
    broadcast_quad,
    dot_pairs,
    dot_quads,
    load,
    pair_sums,
    prefetch,
    prim_func,
    sum_pairs,
)
from fxquant.targets.tvm_api import I, T

ALIGNMENT = 64  # bytes: of every constant and of the scratch memory


def conv_kernel(problem: ConvProblem, isa: Isa, tile: Tile | None = None) -> Kernel:
    """The kernel of `problem`; it depends on shapes, strides and flags only, never on weights."""
    tile = tile or default_tile(problem, isa)
    pieces = task_grid(problem, isa, tile)
    scratch = 0 if isa.exact_quads else -(-2 * task_reach(problem, tile, pieces[0]) // ALIGNMENT) * ALIGNMENT
    with prim_func("conv") as finish:
        _Body(problem, isa, tile, scratch).emit(*pieces)
    return Kernel(finish(), pieces[0] * pieces[1], scratch)


class _Body:
    """The function body while it is being built; `scratch` is in bytes."""

    def __init__(self, problem: ConvProblem, isa: Isa, tile: Tile, scratch: int) -> None:
        self.problem, self.isa, self.tile = problem, isa, tile
        self.grid = pixel_grid(problem)
        self.width = tile.vectors * isa.lanes
        self.pixels = [(r, c) for r in range(tile.rows) for c in range(tile.columns)]
        self.steps = [r * self.grid.x[0] + c * self.grid.x[1] for r, c in self.pixels]
        starts = block_starts(problem, isa, tile)
        covers = [windows(problem, s, min(self.width, problem.out.shape[0] - s)) for s in starts]
        self.block_count = len(starts)
        self.turn = doubles_per_turn(problem)
        self.reach = max(cover.starts[-1] for cover in covers) + QUAD
        self.task: Any = I.arg("task", I.int32())
        self._declare(2 * len(starts) * max(len(cover.starts) for cover in covers), scratch)

    def _declare(self, most: int, scratch: int) -> None:
        """Buffer parameters; `most` windows are expected at the very most."""
        problem = self.problem
        channels = padded_channels(problem, self.isa, self.tile)
        self.x = argument("x", problem.x.extent + QUAD - 1, "uint8", 1)
        self.bias = argument("bias", channels, "uint32")
        self.weights = argument("weights", most * self.width * QUAD, "int8")
        self.offsets = argument("offsets", most, "int32")
        self.blocks = argument("blocks", self.block_count * len(KINDS) * FIELDS + 1, "int32")
        self.epilogue: EpilogueArguments = declare(problem.epilogue, self.isa, channels, self.task)
        residual = problem.epilogue.residual
        self.residual: Any = None if residual is None else argument("residual", residual.extent, residual.dtype, 1)
        self.out = argument("out", problem.out.extent, problem.out.dtype, 1)
        self.wide: Any = argument("scratch", scratch // 2, "int16") if scratch else None

    def emit(self, pixel_pieces: int, channel_pieces: int) -> None:
        """All tiles of one task: blocks of channels outside, so that their weights stay in the first-level cache."""
        across = ceil(self.grid.columns / self.tile.columns)
        tiles = ceil(self.grid.rows / self.tile.rows) * across
        piece, share = self.task % pixel_pieces, self.task // pixel_pieces
        first_tile = I.Bind(piece * tiles // pixel_pieces)
        last_tile = I.Bind((piece + 1) * tiles // pixel_pieces)
        first_block = I.Bind(share * self.block_count // channel_pieces)
        last_block = I.Bind((share + 1) * self.block_count // channel_pieces)
        base = I.Bind(self._origin(*self._place(first_tile, across), start_of_row=True))
        if self.wide is not None:
            row, column = self._place(last_tile - 1, across)
            last = self._origin(row, column, start_of_row=True) + self._span()
            self._widen(base, I.Bind(last - base))
        with I.serial(first_block, last_block) as block:
            at = block * (len(KINDS) * FIELDS)
            fields = [I.Bind(self.blocks[at + i]) for i in range(len(KINDS) * FIELDS)]
            channel = I.Bind(_clamped(block * self.width, self.problem.out.shape[0] - self.width, self.width))
            with I.serial(first_tile, last_tile) as index:
                row, column = self._place(index, across)
                self._tile(fields, channel, I.Bind(row), I.Bind(column), base, index - first_tile)

    def _place(self, index: Any, across: int) -> tuple[Any, Any]:
        """Row and column of a tile's first pixel; the last tiles overlap those before."""
        grid, tile = self.grid, self.tile
        row = _clamped(index // across * tile.rows, grid.rows - tile.rows, tile.rows)
        return row, _clamped(index % across * tile.columns, grid.columns - tile.columns, tile.columns)

    def _origin(self, row: Any, column: Any, start_of_row: bool = False) -> Any:
        """Where a pixel's first byte is; with several rows of pixels, optionally where its row starts."""
        if start_of_row and self.grid.rows > 1:
            return row * self.grid.x[0]
        return row * self.grid.x[0] + column * self.grid.x[1]

    def _span(self) -> int:
        """Bytes that a tile reads after its origin (or the start of its row)."""
        columns = self.grid.columns if self.grid.rows > 1 else self.tile.columns
        return (self.tile.rows - 1) * self.grid.x[0] + (columns - 1) * self.grid.x[1] + self.reach

    def _widen(self, base: Any, size: Any) -> None:
        """The bytes that this task reads, as s16, if any of the layer's windows is wide."""
        with I.If(self.blocks[self.block_count * len(KINDS) * FIELDS] != 0), I.Then(), I.serial(0, size) as i:
            I.buffer_store(self.wide, T.cast(self.x[base + i], "int16"), [i])

    def _tile(self, fields: list[Any], channel: Any, row: Any, column: Any, base: Any, number: Any) -> None:
        """One tile, the task's `number`th of this block."""
        lanes, vectors = self.isa.lanes, self.tile.vectors
        with I.sblock("tile"):
            I.reads()
            I.writes()
            acc = I.sblock_alloc_buffer((len(self.pixels) * self.width,), "uint32", scope="local")
            for j in range(vectors):
                start = I.Bind(load(self.bias, channel + j * lanes, lanes))
                for i in range(len(self.pixels)):
                    I.buffer_store(acc, start, [self._lane(i, j)])
            origin = I.Bind(self._origin(row, column))
            # A pointer of its own, so that no turn of the loops adds the origin again.
            self.near = I.decl_buffer((self._span(),), "uint8", data=I.Bind(T.address_of(self.x[origin])), align=1)
            if not self.isa.exact_quads:
                self._doubles(acc, fields, number)
            self._windows(acc, 0, fields, NARROW, self._narrow)
            if not self.isa.exact_quads:
                self._windows(acc, I.Bind(origin - base), fields, WIDE, self._wide)
            self._store(acc, channel, row, column)

    def _doubles(self, acc: Any, fields: list[Any], number: Any) -> None:
        """All double windows, and a prefetch of the next block's weights: a line per turn, on from tile to tile."""
        weight, offset, count = fields[DOUBLE * FIELDS : (DOUBLE + 1) * FIELDS]
        size = self.width * QUAD * 2
        turns = I.Bind(T.floordiv(count, self.turn))
        with I.serial(0, turns) as index:
            if fetches_ahead(self.problem, self.isa):
                prefetch(self.weights, weight + count * size + (number * turns + index) * LINE_BYTES)
            for entry in (index * self.turn + step for step in range(self.turn)):
                at = [I.Bind(self.offsets[offset + entry * 2 + i]) for i in range(2)]
                self._double(acc, at, weight + entry * size)

    def _windows(self, acc: Any, origin: Any, fields: list[Any], kind: int, window: Callable[..., None]) -> None:
        weight, offset, count = fields[kind * FIELDS : (kind + 1) * FIELDS]
        size = self.width * QUAD * (2 if kind == WIDE and not self.tile.compact else 1)
        with I.serial(0, count) as entry:
            window(acc, [I.Bind(origin + self.offsets[offset + entry])], weight + entry * size)

    def _lane(self, pixel: int, vector: int) -> Any:
        return I.ramp((pixel * self.tile.vectors + vector) * self.isa.lanes, 1, self.isa.lanes)

    def _narrow(self, acc: Any, at: list[Any], weight: Any) -> None:
        def summed(value: Any, xs: list[Any], quads: list[Any]) -> Any:
            return dot_quads(self.isa, value, xs[0], quads[0])

        self._products(acc, lambda step: self._quads_at(at, step), lambda j: [self._quad(weight, j)], summed)

    def _double(self, acc: Any, at: list[Any], weight: Any) -> None:
        def quads(vector: int) -> list[Any]:
            return [self._quad(weight, vector), self._quad(weight + self.width * QUAD, vector)]

        def summed(value: Any, xs: list[Any], ws: list[Any]) -> Any:
            first, second = (pair_sums(self.isa, x, w) for x, w in zip(xs, ws, strict=True))
            return value + sum_pairs(self.isa, first + second)

        self._products(acc, lambda step: self._quads_at(at, step), quads, summed)

    def _wide(self, acc: Any, at: list[Any], weight: Any) -> None:
        def summed(value: Any, xs: list[Any], pairs: list[Any]) -> Any:
            return dot_pairs(self.isa, value, xs[0], pairs[0])

        for half in range(2):

            def pairs_at(step: int, half: int = half) -> list[Any]:
                return [I.Bind(broadcast_pair(self.wide, at[0] + (step + 2 * half), self.isa.lanes))]

            def pairs(vector: int, half: int = half) -> list[Any]:
                return [self._pair_weights(weight, half, vector)]

            self._products(acc, pairs_at, pairs, summed)

    def _products(self, acc: Any, inputs: Callable[[int], list[Any]], weights: Callable[[int], list[Any]],
                  summed: Callable[[Any, list[Any], list[Any]], Any]) -> None:  # fmt: skip
        """Add a window's products: the smaller side of the tile is kept in registers, the other one streams past."""
        vectors = range(self.tile.vectors)
        if len(self.steps) <= self.tile.vectors:
            held = [inputs(step) for step in self.steps]
            terms = ((i, j, x, w) for j in vectors for w in [weights(j)] for i, x in enumerate(held))
        else:
            held, steps = [weights(j) for j in vectors], enumerate(self.steps)
            terms = ((i, j, x, w) for i, step in steps for x in [inputs(step)] for j, w in enumerate(held))
        for i, j, x, w in terms:
            lane = self._lane(i, j)
            I.buffer_store(acc, summed(acc[lane], x, w), [lane])

    def _quads_at(self, at: list[Any], step: int) -> list[Any]:
        """Four input bytes of one pixel in each lane, for each window."""
        return [I.Bind(broadcast_quad(self.near, a + step, self.isa.lanes)) for a in at]

    def _quad(self, first: Any, vector: int) -> Any:
        """One window's s8 weights for one vector of channels."""
        size = self.isa.lanes * QUAD
        return I.Bind(load(self.weights, first + vector * size, size))

    def _pair_weights(self, first: Any, half: int, vector: int) -> Any:
        """s16 weights of bytes 0-1 or 2-3 of a window, for one vector of channels."""
        lanes = self.isa.lanes
        pair = half * self.width + vector * lanes
        if self.tile.compact:
            return I.Bind(T.cast(load(self.weights, first + pair * 2, lanes * 2), f"int16x{lanes * 2}"))
        return I.Bind(bits(load(self.weights, first + pair * 4, lanes * 4), f"int16x{lanes * 2}"))

    def _store(self, acc: Any, channel: Any, row: Any, column: Any) -> None:
        grid = self.grid
        rows = []
        for i, (r, c) in enumerate(self.pixels):
            vectors = [acc[self._lane(i, j)] for j in range(self.tile.vectors)]
            out = (row + r) * grid.out[0] + (column + c) * grid.out[1] + channel
            other = (row + r) * grid.residual[0] + (column + c) * grid.residual[1] + channel
            rows.append(Row(vectors, channel, out, other, self.problem.out.shape[0]))
        store_rows(self.epilogue, self.out, rows, self.residual)


def _clamped(index: Any, last: int, step: int) -> Any:
    """min(index, last), so that the last piece overlaps the one before; nothing to do where pieces divide evenly."""
    return index if last % step == 0 and last >= 0 else T.min(index, max(last, 0))
