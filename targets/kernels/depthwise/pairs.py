"""Depthwise convolution for x86, exact for all int8 weights: two taps at a time, as s16 pairs through `vpmaddwd`.

Two inputs of one channel, from two taps, are interleaved (bytes are widened) in one 32-bit lane; the weights of both
taps stand in the same lane of a packed vector. No 8-bit product is ever added in s16, so nothing can saturate, and the
extra widening is cheap beside the epilogue. An interleaved vector serves every output pixel of the tile that reads it.

The function is `void f(int32 task, x, bias, weights, [multiplier, scalars, [table]], [residual], out)`; the constants
are those of `pack_depthwise`, in that order. It reads nothing outside of x.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache, partial
from math import ceil
from typing import Any

import numpy as np

from fxquant.targets.kernels.contract.epilogue import Numbers
from fxquant.targets.kernels.contract.kernel import Kernel
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.epilogue.x86 import GROUP, Row, declare, pack_epilogue, start_sums, store_rows
from fxquant.targets.kernels.parts import params
from fxquant.targets.kernels.parts.operand import tensor
from fxquant.targets.kernels.words.pieces import dealt, load_some, overlapped, shuffle, starts
from fxquant.targets.kernels.words.tir import bits, load, prim_func
from fxquant.targets.kernels.words.x86 import Isa, dot_pairs
from fxquant.targets.tvm_api import I, T

Array = np.ndarray[Any, Any]
Tap = tuple[int, int]
Pair = tuple[Tap, Tap | None]

MAX_PAIRS = 512  # tap pairs that are unrolled; a larger kernel belongs to the direct convolution
MAX_COLUMNS = 16
MAX_PRODUCTS = 200  # unrolled multiplications of a tile, for the size of the code
_EACH = 4  # tiles of one number of vectors that are worth a measurement
PIECES = 16  # tasks that a layer is cut in, so that a few threads share it evenly


@dataclass(frozen=True)
class DepthwiseTile:
    """`columns` consecutive output pixels of a row times `vectors` vectors of channels."""

    columns: int
    vectors: int


@dataclass(frozen=True)
class _Plan:
    """The problem as rows of pixels: sizes, element steps per row and column, and tap pairs as (row, column) distances.

    A layer whose output is one pixel wide is seen transposed, so that neighbouring outputs share what they read.
    """

    rows: int
    columns: int
    stride: tuple[int, int]
    x: tuple[int, int]
    out: tuple[int, int]
    residual: tuple[int, int]
    taps: tuple[Pair, ...]


def is_depthwise(problem: ConvProblem, isa: Isa) -> bool:
    """True if `depthwise_kernel` takes this problem: one input channel per group, at most a few outputs for each."""
    channels, outputs = problem.x.shape[0], problem.out.shape[0]
    pairs = len(_tap_pairs(*problem.kernel))
    return problem.groups == channels and isa.lanes % (outputs // channels) == 0 and pairs <= MAX_PAIRS


def default_depthwise_tile(problem: ConvProblem, isa: Isa) -> DepthwiseTile:
    """The tile that the cost model likes best."""
    return ranked_depthwise_tiles(problem, isa)[0]


@lru_cache(maxsize=4096)
def ranked_depthwise_tiles(problem: ConvProblem, isa: Isa) -> list[DepthwiseTile]:
    """The tiles by modelled cost, those first that have as many vectors as was measured to be better."""
    plan = _plan(problem)
    usual = _usual_vectors(isa, problem.out.shape[0], max(plan.stride) > 1)
    found: list[DepthwiseTile] = []
    for vectors in (usual, 3 - usual) if problem.out.shape[0] >= 2 * isa.lanes else (1,):
        most = max(1, min(plan.columns, MAX_COLUMNS, MAX_PRODUCTS // (len(plan.taps) * vectors)))
        columns = sorted(range(most, 0, -1), key=partial(_row_cost, plan, GROUP // (isa.lanes * vectors)))
        # The best of the usual kind first, then some of both.
        found += [DepthwiseTile(n, vectors) for n in columns[:_EACH]]
    return found


def _usual_vectors(isa: Isa, channels: int, strided: bool) -> int:
    """On AVX2 two where a stride spreads the loads; with twice the lanes and registers two where it does not."""
    wide = isa.lanes > 8
    if channels < 2 * isa.lanes or (wide and ceil(channels / isa.lanes) % 2):
        return 1
    return 2 if strided != wide else 1


def _row_cost(plan: _Plan, group: int, columns: int) -> float:
    """Products, input columns beyond the outputs', and requantization, which works on groups."""
    products = columns * len(plan.taps)
    return ceil(plan.columns / columns) * (products + len(plan.taps) + 5 * group * ceil(columns / group))


def depthwise_kernel(problem: ConvProblem, isa: Isa, tile: DepthwiseTile | None = None) -> Kernel:
    """The kernel of `problem`, which depends on shapes, strides and flags only; ValueError unless `is_depthwise`."""
    if not is_depthwise(problem, isa):
        raise ValueError(f"depthwise: needs one input channel per group and few taps, use the direct conv: {problem}")
    with prim_func("depthwise") as finish:
        tasks = _Body(problem, isa, tile or default_depthwise_tile(problem, isa)).emit()
    return Kernel(finish(), tasks)


def pack_depthwise(
    problem: ConvProblem,
    isa: Isa,
    tile: DepthwiseTile,
    layer: Layer,
    numbers: Numbers,
) -> dict[str, Array]:
    """The constant arguments of `depthwise_kernel(problem, isa, tile)`, by name and in its order.

    Packed weights are s16 [vector of channels][tap pair][lane][2]. Raises ValueError for weights of another shape or
    dtype.
    """
    layer.require((problem.out.shape[0], 1, *problem.kernel))
    channels = max(problem.out.shape[0], tile.vectors * isa.lanes)
    rounding = pack_epilogue(problem.epilogue, numbers, problem.out, channels)
    return {**params.pack(_params(problem, isa, tile), layer), **rounding}


def _params(problem: ConvProblem, isa: Isa, tile: DepthwiseTile) -> list[params.Param]:
    count, width, pairs = problem.out.shape[0], tile.vectors * isa.lanes, _tap_pairs(*problem.kernel)
    channels = max(count, width)

    def weights(layer: Layer) -> Array:
        taps = np.zeros((channels, len(pairs), 2), np.int16)
        for index, pair in enumerate(pairs):
            for side, tap in enumerate(pair):
                if tap is not None:
                    taps[:count, index, side] = layer.weight[:, 0, tap[0], tap[1]]
        firsts = [start + lane for start in starts(count, width) for lane in range(0, width, isa.lanes)]
        return np.stack([taps[first : first + isa.lanes] for first in firsts]).transpose(0, 2, 1, 3)

    return [
        params.Param("bias", channels, "uint32", lambda layer: start_sums(layer, problem, channels)),
        params.Param("weights", ceil(count / width) * width * 2 * len(pairs), "int16", weights),
    ]


def _tap_pairs(height: int, width: int) -> tuple[Pair, ...]:
    """All taps in pairs: one above the other, or side by side where the kernel is one row; an odd tap stays alone."""
    if height == 1:
        return tuple(((0, x), (0, x + 1) if x + 1 < width else None) for x in range(0, width, 2))
    return tuple(((y, x), (y + 1, x) if y + 1 < height else None) for y in range(0, height, 2) for x in range(width))


def _plan(problem: ConvProblem) -> _Plan:
    _, rows, columns = problem.out.shape
    residual = problem.epilogue.residual or problem.out
    order = (1, 0) if columns == 1 and rows > 1 else (0, 1)

    def turn(pair: tuple[int, ...]) -> tuple[int, int]:
        return pair[order[0]], pair[order[1]]

    def place(tap: Tap) -> Tap:
        return turn((tap[0] * problem.dilation[0], tap[1] * problem.dilation[1]))

    pairs = tuple((place(a), None if b is None else place(b)) for a, b in _tap_pairs(*problem.kernel))
    sizes, steps = turn((rows, columns)), turn(problem.x.strides[1:])
    return _Plan(*sizes, turn(problem.stride), steps, turn(problem.out.strides[1:]), turn(residual.strides[1:]), pairs)


class _Body:
    """The function body while it is being built."""

    def __init__(self, problem: ConvProblem, isa: Isa, tile: DepthwiseTile) -> None:
        self.problem, self.isa, self.tile, self.plan = problem, isa, tile, _plan(problem)
        self.count = problem.out.shape[0]
        self.width = tile.vectors * isa.lanes
        self.blocks = ceil(self.count / self.width)
        self.multiple = self.count // problem.x.shape[0]
        channels = max(self.count, self.width)
        self.task: Any = I.arg("task", I.int32())
        self.x = tensor("x", problem.x)
        self.bias, self.weights = params.declare(_params(problem, isa, tile)).values()
        self.epilogue = declare(problem.epilogue, isa, channels, self.task)
        residual = problem.epilogue.residual
        self.residual: Any = None if residual is None else tensor("residual", residual)
        self.out = tensor("out", problem.out)

    def emit(self) -> int:
        """All tiles of one task; returns how many tasks there are."""
        plan, tile = self.plan, self.tile
        rows, blocks, tasks = dealt(self.task, plan.rows, self.blocks, PIECES)
        with I.serial(*rows) as row, I.serial(*blocks) as block:
            channel = I.Bind(overlapped(block * self.width, self.count, self.width))
            bias = [I.Bind(load(self.bias, channel + j * self.isa.lanes, self.isa.lanes)) for j in range(tile.vectors)]
            weights = self._weights(block)
            with I.serial(0, ceil(plan.columns / tile.columns)) as index:
                column = I.Bind(overlapped(index * tile.columns, plan.columns, tile.columns))
                self._tile(row, column, channel, bias, weights)
        return tasks

    def _weights(self, block: Any) -> list[list[Any]]:
        """Weight vectors by channel vector and tap pair, kept in registers over a row where they fit."""
        pairs, size = len(self.plan.taps), 2 * self.isa.lanes
        keep = pairs * self.tile.vectors <= self.isa.registers - 9
        result = []
        for j in range(self.tile.vectors):
            start = (block * self.tile.vectors + j) * pairs * size
            vectors = [load(self.weights, start + p * size, size) for p in range(pairs)]
            result.append([I.Bind(vector) for vector in vectors] if keep else vectors)
        return result

    def _tile(self, row: Any, column: Any, channel: Any, bias: list[Any], weights: list[list[Any]]) -> None:
        """Walk the input columns left to right, so that few interleaved vectors and sums live at a time."""
        plan, lanes = self.plan, self.isa.lanes
        origin = I.Bind(
            row * (plan.stride[0] * plan.x[0])
            + column * (plan.stride[1] * plan.x[1])
            + (channel if self.multiple == 1 else T.floordiv(channel, self.multiple))
        )
        steps = sorted(
            (o * plan.stride[1] + pair[0][1], p, o)
            for o in range(self.tile.columns)
            for p, pair in enumerate(plan.taps)
        )
        sums: dict[int, list[Any]] = {}
        left = [len(plan.taps)] * self.tile.columns
        seen = _Inputs(self, origin)
        done: list[Row] = []
        for _, p, o in steps:
            inputs = seen.interleaved(plan.taps[p], o * plan.stride[1])
            start = sums.get(o, bias)
            sums[o] = [
                I.Bind(dot_pairs(self.isa, start[j], inputs[j], weights[j][p])) for j in range(self.tile.vectors)
            ]
            left[o] -= 1
            if left[o] == 0:
                out = row * plan.out[0] + (column + o) * plan.out[1] + channel
                other = row * plan.residual[0] + (column + o) * plan.residual[1] + channel
                done.append(Row(sums.pop(o), channel, out, other, self.count))
                if len(done) * self.tile.vectors >= GROUP // lanes:
                    store_rows(self.epilogue, self.out, done, self.residual)
                    done = []
        store_rows(self.epilogue, self.out, done, self.residual)


class _Inputs:
    """The inputs that a tile has read so far, so that each is loaded and interleaved once."""

    def __init__(self, body: _Body, origin: Any) -> None:
        self.body, self.origin = body, origin
        self.total = min(body.width, body.count) // body.multiple
        self.size = max(self.total, body.isa.lanes)
        self.loaded: dict[int, Any] = {}
        self.pairs: dict[tuple[int, ...], list[Any]] = {}

    def interleaved(self, pair: Pair, shift: int) -> list[Any]:
        """The inputs of two taps, `shift` columns on, as s16 pairs: one vector per vector of channels."""
        row, column = self.body.plan.x
        places = tuple(tap[0] * row + (tap[1] + shift) * column for tap in pair if tap is not None)
        if places not in self.pairs:
            sources = [self._elements(place) for place in places]
            self.pairs[places] = [I.Bind(self._widened(sources, j)) for j in range(self.body.tile.vectors)]
        return self.pairs[places]

    def _elements(self, place: int) -> Any:
        if place not in self.loaded:
            self.loaded[place] = I.Bind(load_some(self.body.x, self.origin + place, self.total, self.size))
        return self.loaded[place]

    def _widened(self, sources: list[Any], vector: int) -> Any:
        lanes = self.body.isa.lanes
        first = vector * lanes
        channels = [min((first + lane) // self.body.multiple, self.total - 1) for lane in range(lanes)]
        if len(sources) == 1:  # What the upper halves hold is multiplied by zero.
            return bits(T.cast(shuffle(sources, channels), f"int32x{lanes}"), f"int16x{2 * lanes}")
        order = [side * self.size + channel for channel in channels for side in (0, 1)]
        return T.cast(shuffle(sources, order), f"int16x{2 * lanes}")
