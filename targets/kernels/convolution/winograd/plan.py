"""How a Winograd convolution is cut into tasks and what each holds in its scratch memory.

    task     a run of tile rows x a run of channel blocks
    scratch  s32: [plane][tile][pair of channels] transformed inputs of the task, two s16 each; then
                  [plane][tile][channel] sums of the `resident` channel blocks that are being worked on

A plane is one of the (m + 2)^2 positions in a transformed tile: each is a matrix product of its own.

A convolution of dilation d is d dense ones along an axis, its phases: pixels p, p + d, p + 2d, ... see each other only.
Tiles of neighbouring phases follow each other, and all share the weights.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from math import ceil

from fxquant import geometry
from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.words.x86 import Isa

CACHE_BYTES = 400 << 10  # of the second-level cache, for the scratch memory of a task
LINE_WORDS = 16
DIRECT_MACS, DIRECT_MACS_VNNI = 3.7, 7.4  # of the direct kernel, per cycle and 32-bit lane
# Weights that do not stay in the second-level cache, measured on one core: Zen 3, and one with VNNI, Zen 5.
FAR_BYTES_PER_CYCLE, FAR_BYTES_PER_CYCLE_VNNI = 5, 10
NEAR_BYTES_PER_CYCLE = 32  # the nearest cache's fill, which products that read it all the time wait for
INPUT_CYCLES = {4: 110, 2: 45}  # one tile, one vector of input channels; measured, roughly
OUTPUT_CYCLES = {4: 155, 2: 45}  # one tile, one vector of output channels, requantization included


@dataclass(frozen=True)
class WinogradTile:
    """`size` is m. A task covers `rows` tile rows and `blocks` channel blocks of `vectors` vectors each.

    `resident` blocks (a divisor of `blocks`) are summed before their outputs are computed; `depth` tiles x `vectors`
    vectors are held in registers.
    """

    size: int
    rows: int
    blocks: int
    resident: int
    depth: int
    vectors: int


@dataclass(frozen=True)
class WinogradPlan:
    """Everything that follows from a problem and a tile. Lengths are in s32 words where they are not counts."""

    tile: WinogradTile
    width: int
    tile_rows: int
    tile_columns: int
    count: int
    padded: int
    block_count: int
    row_tasks: int
    block_tasks: int
    pairs: int
    pair_step: int
    input_plane: int
    sum_plane: int

    @property
    def planes(self) -> int:
        """Positions in a transformed tile."""
        return (self.tile.size + 2) ** 2

    @property
    def first_sum(self) -> int:
        """Where the sums start in the scratch memory."""
        return self.planes * self.input_plane

    @property
    def scratch_words(self) -> int:
        """s32 words of scratch of one task."""
        return self.first_sum + self.planes * self.sum_plane


def is_winograd(problem: ConvProblem, size: int) -> bool:
    """True for a 3x3 convolution of stride and groups 1 whose output is at least one tile of `size` in every phase."""
    lengths = [n // step for n, step in zip(problem.out.shape[1:], problem.dilation, strict=True)]
    return geometry.is_winograd(problem.kernel, problem.stride, problem.groups) and min(lengths) >= size


def tile_counts(problem: ConvProblem, size: int) -> tuple[int, int]:
    """Rows and columns of tiles of all phases."""
    rows, columns = (
        step * ceil(ceil(n / step) / size) for n, step in zip(problem.out.shape[1:], problem.dilation, strict=True)
    )
    return rows, columns


def last_vector_overlaps(channels: int, isa: Isa) -> bool:
    """True if the last vector of input channels can overlap the one before: pairs of channels must stay together."""
    return channels % 2 == 0 and channels >= 2 * isa.lanes


def winograd_plan(problem: ConvProblem, isa: Isa, tile: WinogradTile) -> WinogradPlan:
    """Derive all sizes. Raises ValueError for a tile that does not divide what it must divide."""
    channels, outputs = problem.x.shape[0], problem.out.shape[0]
    width = tile.vectors * isa.lanes
    block_count = ceil(outputs / width)
    if block_count % tile.blocks or tile.blocks % tile.resident or (tile.vectors > 1 and width > outputs):
        raise ValueError(f"winograd: {tile} does not divide {outputs} channels ({block_count} blocks)")
    tile_rows, tile_columns = tile_counts(problem, tile.size)
    rows = min(tile.rows, tile_rows)
    count = rows * tile_columns
    padded = ceil(count / tile.depth) * tile.depth
    pairs = ceil(channels / 2)
    step = pairs if last_vector_overlaps(channels, isa) else ceil(pairs / isa.lanes) * isa.lanes
    return WinogradPlan(
        tile=tile,
        width=width,
        tile_rows=tile_rows,
        tile_columns=tile_columns,
        count=count,
        padded=padded,
        block_count=block_count,
        row_tasks=ceil(tile_rows / rows),
        block_tasks=block_count // tile.blocks,
        pairs=pairs,
        pair_step=step,
        input_plane=_spread(padded * step),
        sum_plane=_spread(padded * tile.resident * width),
    )


def _spread(words: int) -> int:
    """An odd number of cache lines, so that the planes of one tile do not compete for the same cache sets."""
    lines = ceil(words / LINE_WORDS)
    return (lines | 1) * LINE_WORDS


def _step_cycles(isa: Isa, depth: int, vectors: int) -> float:
    """Cycles of one pair of input channels in the registers' tile: a fit to measurements of eight tiles on AVX2."""
    product = 0.3 if isa.exact_quads else 0.45  # vpdpwssd adds by itself
    if depth == 1:  # every weight is used once, from memory within its product
        return (product + 0.16) * vectors
    return product * depth * vectors + 0.267 * (depth + vectors)


def winograd_cost(problem: ConvProblem, isa: Isa, tile: WinogradTile) -> float:
    """Modelled cycles of the layer, the mean of the costs for one, two and four threads."""
    plan = winograd_plan(problem, isa, tile)
    inputs = plan.count * ceil(problem.x.shape[0] / (2 * isa.lanes)) * INPUT_CYCLES[tile.size]
    outputs = plan.count * tile.blocks * tile.vectors * OUTPUT_CYCLES[tile.size]
    steps = plan.pairs * _step_cycles(isa, tile.depth, tile.vectors) + 10
    products = plan.planes * tile.blocks * (plan.padded // tile.depth) * steps
    weights = plan.planes * tile.blocks * plan.pairs * plan.width * 4
    if tile.depth == 1:
        products += weights / NEAR_BYTES_PER_CYCLE
    if weights * plan.block_tasks > CACHE_BYTES:
        products = max(products, weights / (FAR_BYTES_PER_CYCLE_VNNI if isa.exact_quads else FAR_BYTES_PER_CYCLE))
    again = plan.planes * plan.padded * plan.pairs * 4 * (tile.blocks / tile.resident) / 24  # inputs, from the cache
    tasks = plan.row_tasks * plan.block_tasks
    rounds = sum(threads * ceil(tasks / threads) for threads in (1, 2, 4)) / 3
    return (inputs + outputs + products + again) * (1 + plan.scratch_words * 4 / (32 * CACHE_BYTES)) * rounds


def _divisors(number: int) -> list[int]:
    return [d for d in range(1, number + 1) if number % d == 0]


def _shapes(isa: Isa, outputs: int, count: int) -> list[tuple[int, int]]:
    """(depth, vectors) of register tiles that do not spill: sums, the weights of two steps and three temporaries.

    A tile of depth 1 takes its weights from memory within the multiplication, so that many vectors cost few
    instructions; measured on AVX2 only.
    """
    most = {vectors: (isa.registers - 3 - 2 * vectors) // vectors for vectors in (1, 2)}
    usual = [
        (depth, vectors)
        for vectors in (1, 2)
        if vectors == 1 or outputs >= vectors * isa.lanes
        for depth in [n for n in range(2, most[vectors] + 1) if n < count + 3] or [2]
    ]
    flat = [(1, vectors) for vectors in (4, 8) if outputs >= vectors * isa.lanes and not isa.exact_quads]
    return usual + flat


def default_winograd_tile(problem: ConvProblem, isa: Isa, size: int) -> WinogradTile:
    """The tile of output size `size` that the cost model likes best."""
    return ranked_winograd_tiles(problem, isa, size)[0]


@lru_cache(maxsize=4096)
def ranked_winograd_tiles(problem: ConvProblem, isa: Isa, size: int) -> list[WinogradTile]:
    """The tiles of output size `size` by modelled cost, the best first."""
    tile_rows, tile_columns = tile_counts(problem, size)
    outputs = problem.out.shape[0]
    tiles = [
        WinogradTile(size, rows, blocks, resident, depth, vectors)
        for rows in sorted({ceil(tile_rows / parts) for parts in range(1, tile_rows + 1)})
        for depth, vectors in _shapes(isa, outputs, rows * tile_columns)
        for blocks in _divisors(ceil(outputs / (vectors * isa.lanes)))
        for resident in _divisors(blocks)
        if resident * vectors <= 8 or resident == 1
    ]
    return sorted(tiles, key=lambda tile: (winograd_cost(problem, isa, tile), -tile.resident))


def choose_winograd(problem: ConvProblem, isa: Isa, sizes: tuple[int, ...]) -> WinogradTile | None:
    """The best tile among output sizes that are proven exact (`exact_tiles`), or None where direct is faster."""
    tiles = [default_winograd_tile(problem, isa, size) for size in sizes if is_winograd(problem, size)]
    direct = problem.macs / (isa.lanes * (DIRECT_MACS_VNNI if isa.exact_quads else DIRECT_MACS))
    costs = {tile: winograd_cost(problem, isa, tile) for tile in tiles}
    best = min(costs, key=lambda tile: costs[tile], default=None)
    return best if best is not None and costs[best] < direct else None
