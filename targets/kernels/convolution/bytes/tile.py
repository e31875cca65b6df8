"""How a convolution is cut into register tiles and tasks, and a cost model to choose them."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil, sqrt
from typing import Any

import numpy as np

from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.convolution.bytes.windows import windows
from fxquant.targets.kernels.parts.operand import QUADS, Window, window_of
from fxquant.targets.kernels.words.pieces import starts
from fxquant.targets.kernels.words.x86 import NARROW_REACH, Isa, pair_reach

TASK_MACS = 2 << 20  # about 20 microseconds of one AVX2 core
SMALL_TASK_MACS = 1 << 17
WIDE_CHANNELS = 0.02  # of a window's channels whose weights need s16 products, in a layer with room for one product
WIDE_EXTRA = 1.5  # instructions per product that such a window takes more than a narrow one
EXCEPTIONS = 0.002  # of a layer's weights that may leave less room than all others
STREAMED_BYTES, FAR_BYTES = 32 << 10, 256 << 10  # a first-level cache, and half of a second-level one
STREAMED, FAR = 1.2, 1.4  # what a tile of one pixel takes longer where its block of weights does not stay there
FEW_PIXELS = 128  # of a layer that uses each weight so seldom that waiting for it is felt
FEW_DOUBLES = 8
PIECES = 8  # a small layer is still cut in this many tasks, so that a few threads share it


@dataclass(frozen=True)
class Tile:
    """`rows` x `columns` output pixels times `vectors` vectors of output channels, held in registers.

    `uniform`: windows are taken in the order of memory, see `conv_uniform.py`.
    """

    rows: int
    columns: int
    vectors: int
    uniform: bool = False

    @property
    def compact(self) -> bool:
        """True where weights are used too few times per load to be worth storing as s16."""
        return self.rows * self.columns == 1


@dataclass(frozen=True)
class PixelGrid:
    """Output pixels as rows x columns, with element steps per row and column in x, out and the residual."""

    rows: int
    columns: int
    x: tuple[int, int]
    out: tuple[int, int]
    residual: tuple[int, int]


def pixel_grid(problem: ConvProblem) -> PixelGrid:
    """Rows and columns of pixels, merged into a single row where all steps allow it."""
    _, rows, columns = problem.out.shape
    residual = problem.epilogue.residual or problem.out
    steps = [
        (problem.x.strides[1] * problem.stride[0], problem.x.strides[2] * problem.stride[1]),
        (problem.out.strides[1], problem.out.strides[2]),
        (residual.strides[1], residual.strides[2]),
    ]
    if columns == 1:
        steps = [(0, row) for row, _ in steps]
        rows, columns = 1, rows
    elif rows > 1 and all(row == columns * column for row, column in steps):
        rows, columns = 1, rows * columns
    return PixelGrid(rows, columns, *steps)


def block_starts(problem: ConvProblem, isa: Isa, tile: Tile) -> list[int]:
    """First output channel of each block; the last block overlaps the one before where channels do not divide."""
    width, total = tile.vectors * isa.lanes, problem.out.shape[0]
    return starts(total, width)


def room(isa: Isa, weight: np.ndarray[Any, Any]) -> int:
    """How many products of these weights fit a sum of 16 bits: 4 (windows are double), 2 (narrow) or 1 (some are wide).

    Classes only, so that layers of equal shape keep sharing code. `weight` is int8 (Co, C / groups, kh, kw), whose rows
    are cut into windows as `windows` does.
    """
    if isa.exact_quads:
        return 4
    rows = np.moveaxis(weight, 1, -1).reshape(*weight.shape[::2], -1)
    quad = QUADS.taps
    whole = rows.shape[-1] // quad * quad
    gap = np.zeros((*rows.shape[:2], -rows.shape[-1] % quad), np.int8)  # the last window of a kernel row ends with it
    reach = pair_reach(
        np.concatenate([rows[..., :whole], gap, rows[..., whole:]], -1).reshape(*rows.shape[:2], -1, quad)
    )
    even = reach.shape[2] // 2 * 2
    for products, sums in ((4, reach[:, :, 0:even:2] + reach[:, :, 1:even:2]), (2, reach)):
        a, b, c, d = np.moveaxis(sums > NARROW_REACH, -1, 0)  # numpy is slow to reduce along a short axis
        if sums.size and float((a | b | c | d).mean()) <= EXCEPTIONS:
            return products
    return 1


def doubles_per_turn(problem: ConvProblem) -> int:
    """Double windows (`conv_pack.py`) that the kernel takes in one turn: two, unless that leaves over one of a few.

    A turn's counters cost little on a core of one's own, and more where its other thread is at work too.
    """
    doubles = len(windows(problem, 0, 1).starts) // 2
    return 1 if doubles % 2 and doubles < FEW_DOUBLES else 2


def fetches_ahead(problem: ConvProblem, isa: Isa) -> bool:
    """True where the kernel prefetches the weights of the next block: by double windows, for few pixels."""
    return not window_of(problem.x).is_exact(isa) and 1 < problem.out.shape[1] * problem.out.shape[2] <= FEW_PIXELS


def _fits(isa: Isa, operand: Window, pixels: int, vectors: int) -> bool:
    """Accumulators, the side of the tile that is held, and temporaries within the registers."""
    if isa.exact_quads:
        return pixels * vectors + (0 if pixels == 1 else vectors) + 1 <= isa.registers
    if operand.is_exact(isa):
        return pixels * vectors + min(pixels, vectors) + 2 <= isa.registers
    return pixels * vectors + 2 * min(pixels, vectors) + 4 <= isa.registers


def _window_cycles(isa: Isa, operand: Window, pixels: int, vectors: int, products: int, streamed: float) -> float:
    """Modelled cycles of one window of one tile, whose weights have `room` for so many products.

    With a single instruction per product, multiplier and load ports decide. With "maddubs" it is vector instructions,
    of which one AVX2 core (Zen 3) was measured to sustain three per cycle, and broadcasts. There a window is wide as
    soon as one of its channels is, so tiles of many channels meet more.
    """
    sums = pixels * vectors
    if isa.exact_quads:
        # More than some pixels at once read from places that get in each other's way in the nearest cache.
        return max(0.55 * sums, 0.59 * (pixels + vectors)) + 0.05 * vectors + 0.075 * max(0, pixels - 8)
    if operand.is_exact(isa):
        # A product and an addition each; inputs are loads, weights are widened.
        return streamed * (2 * sums + 1.5 * pixels + 1.5 * vectors + 1) / 3
    share = 1 - (1 - WIDE_CHANNELS) ** (vectors * isa.lanes) if products == 1 else 0.0
    each = 2.5 if products == 4 else 3 + WIDE_EXTRA * share
    # The only pixel takes its weights from memory within the multiplication.
    cycles = (each * sums + 1.5 * pixels + (0.25 if pixels == 1 else 0.5) * vectors + 1) / 3
    return streamed * cycles


def tile_cost(problem: ConvProblem, isa: Isa, tile: Tile, products: int = 1) -> float:
    """Modelled cycles of the whole layer with this tile; only ratios between tiles mean anything."""
    grid = pixel_grid(problem)
    pixels, operand = tile.rows * tile.columns, window_of(problem.x)
    tiles = ceil(grid.rows / tile.rows) * ceil(grid.columns / tile.columns)
    blocks = len(block_starts(problem, isa, tile))
    count = min(tile.vectors * isa.lanes, problem.out.shape[0])
    steps = len(windows(problem, 0, count).starts)
    # With one pixel every weight is loaded for a single product, and a large block does not stay in the nearest cache.
    size = steps * operand.taps * tile.vectors * isa.lanes
    streamed = 1.0 if pixels > 1 or size <= STREAMED_BYTES else STREAMED if size <= FAR_BYTES else FAR
    cycles = _window_cycles(isa, operand, pixels, tile.vectors, products, streamed)
    # A vector to its stored bytes, and the tile itself: with 16 lanes an epilogue takes a fraction.
    vector, whole = (0.5, 2) if isa.exact_quads else (3.5, 20)
    return tiles * blocks * (steps * cycles + vector * pixels * tile.vectors + whole)


def default_tile(problem: ConvProblem, isa: Isa, products: int = 1, uniform: bool = False) -> Tile:
    """The tile that the cost model likes best; see `room`."""
    return ranked_tiles(problem, isa, products, uniform)[0]


@lru_cache(maxsize=4096)
def ranked_tiles(problem: ConvProblem, isa: Isa, products: int = 1, uniform: bool = False) -> list[Tile]:
    """The tiles that do not spill, by modelled cost, the best first."""
    grid = pixel_grid(problem)
    most = ceil(problem.out.shape[0] / isa.lanes)
    tiles = [
        Tile(rows, columns, vectors, uniform)
        for vectors in range(1, min(most, 8) + 1)
        for columns in range(1, min(grid.columns, isa.registers) + 1)
        for rows in range(1, min(grid.rows, 4) + 1)
        if _fits(isa, window_of(problem.x), rows * columns, vectors)
    ]
    return sorted(tiles, key=lambda tile: (tile_cost(problem, isa, tile, products), tile.rows, tile.vectors))


def task_reach(problem: ConvProblem, tile: Tile, pixel_pieces: int) -> int:
    """The most input bytes between the first and one past the last that a task reads."""
    grid = pixel_grid(problem)
    across = ceil(grid.columns / tile.columns)
    tiles = ceil(grid.rows / tile.rows) * across
    # A block of few channels may have its last window up to three bytes further on than the whole layer has.
    reach = windows(problem, 0, problem.out.shape[0]).starts[-1] + 2 * QUADS.taps - 1
    most = 0
    for piece in range(pixel_pieces):
        first, last = piece * tiles // pixel_pieces, (piece + 1) * tiles // pixel_pieces - 1
        if grid.rows > 1:
            top = min(first // across * tile.rows, grid.rows - tile.rows)
            bottom = min(last // across * tile.rows, grid.rows - tile.rows) + tile.rows - 1
            size = (bottom - top) * grid.x[0] + (grid.columns - 1) * grid.x[1]
        else:
            left = min(first * tile.columns, grid.columns - tile.columns)
            size = (min(last * tile.columns, grid.columns - tile.columns) + tile.columns - 1 - left) * grid.x[1]
        most = max(most, size + reach)
    return most


def task_grid(problem: ConvProblem, isa: Isa, tile: Tile) -> tuple[int, int]:
    """(pieces of the pixels, of the channel blocks): tasks of some 20 microseconds that move the least memory."""
    grid = pixel_grid(problem)
    tiles = ceil(grid.rows / tile.rows) * ceil(grid.columns / tile.columns)
    blocks = len(block_starts(problem, isa, tile))
    size = min(TASK_MACS, max(SMALL_TASK_MACS, problem.macs // PIECES))
    wanted = max(1, round(problem.macs / size))
    weights = problem.macs // (problem.out.shape[1] * problem.out.shape[2])
    channel_pieces = min(blocks, wanted, max(1, round(sqrt(wanted * weights / max(1, problem.x.size)))))
    pixel_pieces = min(tiles, ceil(wanted / channel_pieces))
    channel_pieces = min(blocks, ceil(wanted / pixel_pieces))
    return pixel_pieces, channel_pieces
