"""What every direct convolution shares: tasks, register tiles, dot products of windows, and the epilogue.

A window is four bytes of the input, broadcast straight from memory (no packing of activations, no im2col), and a tile
of pixels x channels stays in registers from the bias to the stored bytes. In which order a tile takes its windows is
left to the two kinds: `conv_sorted.py` and `conv_uniform.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import ceil
from typing import Any

from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.convolution.bytes.pack import padded_channels, params
from fxquant.targets.kernels.convolution.bytes.tile import Tile, block_starts, fetches_ahead, pixel_grid
from fxquant.targets.kernels.convolution.bytes.windows import QUAD, windows
from fxquant.targets.kernels.epilogue.x86 import EpilogueArguments, Row, declare, store_rows
from fxquant.targets.kernels.parts.params import declare as declare_params
from fxquant.targets.kernels.words.pieces import overlapped
from fxquant.targets.kernels.words.tir import argument, load, prefetch
from fxquant.targets.kernels.words.x86 import LINE_BYTES, Isa, broadcast_quad, dot_quads, pair_sums, sum_pairs
from fxquant.targets.tvm_api import I, T


class Body(ABC):
    """The function body while it is being built, for so many pieces of the pixels and of the channel blocks.

    `scratch` is the bytes of scratch memory that a task takes.
    """

    scratch = 0

    def __init__(self, problem: ConvProblem, isa: Isa, tile: Tile, pieces: tuple[int, int]) -> None:
        self.problem, self.isa, self.tile, self.pieces = problem, isa, tile, pieces
        self.grid = pixel_grid(problem)
        self.width = tile.vectors * isa.lanes
        self.pixels = [(r, c) for r in range(tile.rows) for c in range(tile.columns)]
        self.steps = [r * self.grid.x[0] + c * self.grid.x[1] for r, c in self.pixels]
        starts = block_starts(problem, isa, tile)
        self.covers = [windows(problem, s, min(self.width, problem.out.shape[0] - s)) for s in starts]
        self.block_count = len(starts)
        self.reach = max(cover.starts[-1] for cover in self.covers) + QUAD
        self.task: Any = I.arg("task", I.int32())
        channels = padded_channels(problem, isa, tile)
        self.x = argument("x", problem.x.extent + QUAD - 1, "uint8", 1)
        self.constants = declare_params(params(problem, isa, tile))
        self.bias, self.weights = self.constants["bias"], self.constants["weights"]
        self.epilogue: EpilogueArguments = declare(problem.epilogue, isa, channels, self.task)
        residual = problem.epilogue.residual
        self.residual: Any = None if residual is None else argument("residual", residual.extent, residual.dtype, 1)
        self.out = argument("out", problem.out.extent, problem.out.dtype, 1)

    @abstractmethod
    def block(self, index: Any) -> Any:
        """What `add` wants to know of a block of channels."""

    @abstractmethod
    def add(self, acc: Any, block: Any, origin: Any, number: Any) -> None:
        """Add all products of a tile, the task's `number`th of this block, whose first byte is at `origin` in x."""

    @abstractmethod
    def begin(self, first: Any, last: Any, across: int) -> None:
        """What a task does before its tiles `first` ... `last` - 1."""

    def emit(self) -> None:
        """All tiles of one task: blocks of channels outside, so that their weights stay in the first-level cache."""
        pixel_pieces, channel_pieces = self.pieces
        across = ceil(self.grid.columns / self.tile.columns)
        tiles = ceil(self.grid.rows / self.tile.rows) * across
        piece, share = self.task % pixel_pieces, self.task // pixel_pieces
        first_tile = I.Bind(piece * tiles // pixel_pieces)
        last_tile = I.Bind((piece + 1) * tiles // pixel_pieces)
        first_block = I.Bind(share * self.block_count // channel_pieces)
        last_block = I.Bind((share + 1) * self.block_count // channel_pieces)
        self.begin(first_tile, last_tile, across)
        with I.serial(first_block, last_block) as index:
            block = self.block(index)
            channel = I.Bind(overlapped(index * self.width, self.problem.out.shape[0], self.width))
            with I.serial(first_tile, last_tile) as tile:
                row, column = self.place(tile, across)
                self._tile(block, channel, I.Bind(row), I.Bind(column), tile - first_tile)

    def place(self, index: Any, across: int) -> tuple[Any, Any]:
        """Row and column of a tile's first pixel; the last tiles overlap those before."""
        grid, tile = self.grid, self.tile
        row = overlapped(index // across * tile.rows, grid.rows, tile.rows)
        return row, overlapped(index % across * tile.columns, grid.columns, tile.columns)

    def origin(self, row: Any, column: Any, start_of_row: bool = False) -> Any:
        """Where a pixel's first byte is; with several rows of pixels, optionally where its row starts."""
        if start_of_row and self.grid.rows > 1:
            return row * self.grid.x[0]
        return row * self.grid.x[0] + column * self.grid.x[1]

    def span(self) -> int:
        """Bytes that a tile reads after its origin (or the start of its row)."""
        columns = self.grid.columns if self.grid.rows > 1 else self.tile.columns
        return (self.tile.rows - 1) * self.grid.x[0] + (columns - 1) * self.grid.x[1] + self.reach

    def _tile(self, block: Any, channel: Any, row: Any, column: Any, number: Any) -> None:
        lanes, vectors = self.isa.lanes, self.tile.vectors
        with I.sblock("tile"):
            I.reads()
            I.writes()
            acc = I.sblock_alloc_buffer((len(self.pixels) * self.width,), "uint32", scope="local")
            for j in range(vectors):
                start = I.Bind(load(self.bias, channel + j * lanes, lanes))
                for i in range(len(self.pixels)):
                    I.buffer_store(acc, start, [self._lane(i, j)])
            origin = I.Bind(self.origin(row, column))
            # A pointer of its own, so that no turn of the loops adds the origin again.
            self.near = I.decl_buffer((self.span(),), "uint8", data=I.Bind(T.address_of(self.x[origin])), align=1)
            self.add(acc, block, origin, number)
            self._store(acc, channel, row, column)

    def fetch_ahead(self, following: Any, line: Any) -> None:
        """Prefetch a line of the next block's weights, where that helps; they are read on from tile to tile."""
        if fetches_ahead(self.problem, self.isa) and self.block_count > 1:
            prefetch(self.weights, following + line * LINE_BYTES)

    def _lane(self, pixel: int, vector: int) -> Any:
        return I.ramp((pixel * self.tile.vectors + vector) * self.isa.lanes, 1, self.isa.lanes)

    def narrow(self, acc: Any, at: list[Any], weight: Any) -> None:
        """Add the products of one window, whose input is at `at` from the tile's first byte."""

        def summed(value: Any, xs: list[Any], quads: list[Any]) -> Any:
            return dot_quads(self.isa, value, xs[0], quads[0])

        self.products(acc, lambda step: self._quads_at(at, step), lambda j: [self.quad(weight, j)], summed)

    def double(self, acc: Any, at: list[Any], weight: Any) -> None:
        """Add the products of two windows, which are summed in 16 bits first."""

        second = weight + self.width * QUAD

        def quads(vector: int) -> list[Any]:
            return [self.quad(weight, vector), self.quad(second, vector)]

        def summed(value: Any, xs: list[Any], ws: list[Any]) -> Any:
            first, second = (pair_sums(self.isa, x, w) for x, w in zip(xs, ws, strict=True))
            return value + sum_pairs(self.isa, first + second)

        self.products(acc, lambda step: self._quads_at(at, step), quads, summed)

    def products(self, acc: Any, inputs: Callable[[int], list[Any]], weights: Callable[[int], list[Any]],
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

    def quad(self, first: Any, vector: int) -> Any:
        """One window's s8 weights for one vector of channels."""
        size = self.isa.lanes * QUAD
        return I.Bind(load(self.weights, first + vector * size, size))

    def _store(self, acc: Any, channel: Any, row: Any, column: Any) -> None:
        grid = self.grid
        rows = []
        for i, (r, c) in enumerate(self.pixels):
            vectors = [acc[self._lane(i, j)] for j in range(self.tile.vectors)]
            out = (row + r) * grid.out[0] + (column + c) * grid.out[1] + channel
            other = (row + r) * grid.residual[0] + (column + c) * grid.residual[1] + channel
            rows.append(Row(vectors, channel, out, other, self.problem.out.shape[0]))
        store_rows(self.epilogue, self.out, rows, self.residual)
