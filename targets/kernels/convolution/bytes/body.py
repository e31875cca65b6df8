"""What every direct convolution shares: tasks, register tiles, dot products of windows, and the epilogue.

A window is four bytes of the input, four elements or two, broadcast straight from memory (no packing of activations,
no im2col), and a tile of pixels x channels stays in registers from the bias to the stored elements. In which order a
tile takes its windows is left to the two kinds: `sorted.py` and `uniform.py`.
"""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable
from math import ceil
from typing import Any

from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.convolution.bytes.pack import padded_channels, params
from fxquant.targets.kernels.convolution.bytes.tile import Tile, block_starts, fetches_ahead, pixel_grid
from fxquant.targets.kernels.convolution.bytes.windows import windows
from fxquant.targets.kernels.epilogue.x86 import EpilogueArguments, Row, declare, store_rows
from fxquant.targets.kernels.parts import wide
from fxquant.targets.kernels.parts.operand import alignment, tensor, window_of
from fxquant.targets.kernels.parts.params import declare as declare_params
from fxquant.targets.kernels.words.pieces import overlapped
from fxquant.targets.kernels.words.tir import argument, bits, load, prefetch
from fxquant.targets.kernels.words.x86 import LINE_BYTES, Isa, pair_sums, sum_pairs
from fxquant.targets.tvm_api import I, T


class Body(ABC):
    """The function body while it is being built, for so many pieces of the pixels and of the channel blocks.

    `scratch` is the bytes of scratch memory that a task takes.
    """

    scratch = 0

    def __init__(self, problem: ConvProblem, isa: Isa, tile: Tile, pieces: tuple[int, int]) -> None:
        self.problem, self.isa, self.tile, self.pieces = problem, isa, tile, pieces
        self.grid, self.operand = pixel_grid(problem), window_of(problem.x)
        self.width = tile.vectors * isa.lanes
        self.pixels = [(r, c) for r in range(tile.rows) for c in range(tile.columns)]
        self.steps = [r * self.grid.x[0] + c * self.grid.x[1] for r, c in self.pixels]
        starts = block_starts(problem, isa, tile)
        self.covers = [windows(problem, s, min(self.width, problem.out.shape[0] - s)) for s in starts]
        self.block_count = len(starts)
        self.reach = max(cover.starts[-1] for cover in self.covers) + self.operand.taps
        self.task: Any = I.arg("task", I.int32())
        self.channels = padded_channels(problem, isa, tile)
        kind = self.operand.dtype
        self.x = argument("x", problem.x.extent + self.operand.taps - 1, kind, alignment(kind))
        self.constants = declare_params(params(problem, isa, tile))
        self.bias, self.weights = self.constants["bias"], self.constants["weights"]
        self.epilogue: EpilogueArguments = declare(problem.epilogue, isa, self.channels, self.task)
        residual = problem.epilogue.residual
        self.residual: Any = None if residual is None else tensor("residual", residual)
        self.out = tensor("out", problem.out)

    @abstractmethod
    def block(self, index: Any) -> Any:
        """What `add` wants to know of a block of channels."""

    @abstractmethod
    def add(self, acc: Any, block: Any, origin: Any, number: Any) -> None:
        """Add all products of a tile, the task's `number`th of this block, whose first element is at `origin` in x."""

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
        """Where a pixel's first element is; with several rows of pixels, optionally where its row starts."""
        if start_of_row and self.grid.rows > 1:
            return row * self.grid.x[0]
        return row * self.grid.x[0] + column * self.grid.x[1]

    def span(self) -> int:
        """Elements that a tile reads after its origin (or the start of its row)."""
        columns = self.grid.columns if self.grid.rows > 1 else self.tile.columns
        return (self.tile.rows - 1) * self.grid.x[0] + (columns - 1) * self.grid.x[1] + self.reach

    def _tile(self, block: Any, channel: Any, row: Any, column: Any, number: Any) -> None:
        with I.sblock("tile"):
            I.reads()
            I.writes()
            acc = self._sums(channel)
            self.high = self._sums(self.channels + channel) if self.problem.drop else None
            origin = I.Bind(self.origin(row, column))
            # A pointer of its own, so that no turn of the loops adds the origin again.
            self.near = I.decl_buffer(
                (self.span(),),
                self.operand.dtype,
                data=I.Bind(T.address_of(self.x[origin])),
                align=alignment(self.operand.dtype),
            )
            self.add(acc, block, origin, number)
            self._store(acc, channel, row, column)

    def _sums(self, channel: Any) -> Any:
        """Registers for the sums of a tile, which begin with the bias."""
        lanes = self.isa.lanes
        acc = I.sblock_alloc_buffer((len(self.pixels) * self.width,), "uint32", scope="local")
        for j in range(self.tile.vectors):
            start = I.Bind(load(self.bias, channel + j * lanes, lanes))
            for i in range(len(self.pixels)):
                I.buffer_store(acc, start, [self._lane(i, j)])
        return acc

    def drain(self, acc: Any) -> None:
        """Move the upper bits of all sums, where 32 are too few for them."""
        lanes = self.isa.lanes
        if self.high is not None:
            wide.drain(acc, self.high, [(at, lanes) for at in range(0, len(self.pixels) * self.width, lanes)])

    def fetch_ahead(self, following: Any, line: Any) -> None:
        """Prefetch a line of the next block's weights, where that helps; they are read on from tile to tile."""
        if fetches_ahead(self.problem, self.isa) and self.block_count > 1:
            prefetch(self.weights, following + line * LINE_BYTES)

    def _lane(self, pixel: int, vector: int) -> Any:
        return I.ramp((pixel * self.tile.vectors + vector) * self.isa.lanes, 1, self.isa.lanes)

    def narrow(self, acc: Any, at: list[Any], weight: Any) -> None:
        """Add the products of one window, whose input is at `at` from the tile's first element."""

        def summed(value: Any, xs: list[Any], weights: list[Any]) -> Any:
            return self.operand.dot(self.isa, value, xs[0], weights[0])

        self.products(acc, lambda step: self._inputs_at(at, step), lambda j: [self.quad(weight, j)], summed)

    def double(self, acc: Any, at: list[Any], weight: Any) -> None:
        """Add the products of two windows, which are summed in 16 bits first."""

        second = weight + self.width * self.operand.taps

        def quads(vector: int) -> list[Any]:
            return [self.quad(weight, vector), self.quad(second, vector)]

        def summed(value: Any, xs: list[Any], ws: list[Any]) -> Any:
            first, second = (pair_sums(self.isa, x, w) for x, w in zip(xs, ws, strict=True))
            return value + sum_pairs(self.isa, first + second)

        self.products(acc, lambda step: self._inputs_at(at, step), quads, summed)

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

    def _inputs_at(self, at: list[Any], step: int) -> list[Any]:
        """What one pixel has in each window, in each lane."""
        return [I.Bind(self.operand.inputs(self.near, a + step, self.isa.lanes)) for a in at]

    def quad(self, first: Any, vector: int) -> Any:
        """One window's weights for one vector of channels."""
        lanes = self.isa.lanes
        return I.Bind(self.operand.weights(self.weights, first + vector * lanes * self.operand.taps, lanes))

    def _store(self, acc: Any, channel: Any, row: Any, column: Any) -> None:
        grid = self.grid
        rows = []
        for i, (r, c) in enumerate(self.pixels):
            vectors = [self._sum(acc, self._lane(i, j)) for j in range(self.tile.vectors)]
            out = (row + r) * grid.out[0] + (column + c) * grid.out[1] + channel
            other = (row + r) * grid.residual[0] + (column + c) * grid.residual[1] + channel
            rows.append(Row(vectors, channel, out, other, self.problem.out.shape[0]))
        store_rows(self.epilogue, self.out, rows, self.residual)

    def _sum(self, acc: Any, lane: Any) -> Any:
        """A vector of sums; wide ones without the bits that they lose."""
        if self.high is None:
            return acc[lane]
        lanes = self.isa.lanes
        upper = bits(self.high[lane], f"int32x{lanes}")
        return I.Bind(bits(wide.dropped(acc[lane], upper, self.problem.drop, lanes), f"uint32x{lanes}"))
