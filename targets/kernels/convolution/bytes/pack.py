"""Weights and constants of a convolution, laid out for the kernel of `conv.py`.

A block (the output channels of a register tile) has a list of windows (four input bytes each, see `conv_plan.py`), and
each window one of three kinds, decided by what `vpmaddubsw` can sum without saturation for *every* input:

    double  two windows whose s16 sums may be added before they are widened
    narrow  a window that is exact alone
    wide    anything else: s16 weights on an input widened to s16

A wide window can also be split in two narrow ones (w >> 1 and the rest), which costs more than a wide one but does not
need the widened input: done where wide windows are few. Windows without a weight but zero are left out.

Where all weights are such that windows can be double in the order of memory (`is_uniform`), there are no tables, and
the weights of a block are its double windows and then those that are left over, see `conv_uniform.py`.

    bias      u32[channels]: bias - (zero point + x.bias) * sum of weights, modulo 2^32
    weights   s8 bytes (`packed.py`: fewer bits), per block: double [n][2][channels][4] s8, narrow [n][channels][4] s8,
              wide [n][2: bytes 0-1, bytes 2-3][channels][2] s16 (s8 for a tile of `compact` weights)
    offsets   s32, per distinct order of windows: distance in bytes from the pixel's first byte; two per double window
    blocks    s32[block][kind][3]: first byte in `weights`, first entry in `offsets`, how many; then one s32: any wide
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cache, partial
from typing import Any

import numpy as np

from fxquant.targets.kernels.contract.epilogue import Numbers
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.convolution.bytes.tile import Tile, block_starts, doubles_per_turn
from fxquant.targets.kernels.convolution.bytes.windows import QUAD, Windows, in_twos, windows
from fxquant.targets.kernels.epilogue.x86 import pack_epilogue, start_sums
from fxquant.targets.kernels.parts.params import Param, pack
from fxquant.targets.kernels.parts.weights import Stored
from fxquant.targets.kernels.words.x86 import NARROW_REACH, Isa, pair_reach

Array = np.ndarray[Any, Any]
DOUBLE, NARROW, WIDE = KINDS = range(3)
FIELDS = 3  # where the weights start, where the offsets start, how many
SPLIT_SHARE = 0.04  # below this share of wide windows, splitting them is cheaper than widening the input
MATCHING_ROUNDS = 12


@dataclass(frozen=True)
class _Block:
    """Windows of one block: distances and int8 weights [window][channel][4]."""

    starts: Array
    quads: Array


def padded_channels(problem: ConvProblem, isa: Isa, tile: Tile) -> int:
    """Entries of the per-channel constants: at least one whole block."""
    return max(problem.out.shape[0], tile.vectors * isa.lanes)


def pack_conv(
    problem: ConvProblem,
    isa: Isa,
    tile: Tile,
    layer: Layer,
    numbers: Numbers,
) -> dict[str, Array]:
    """The constant arguments of `conv_kernel(problem, isa, tile)`, by name and in its order.

    Raises ValueError for weights of another shape or dtype.
    """
    layer.require((problem.out.shape[0], problem.depth, *problem.kernel))
    rounding = pack_epilogue(problem.epilogue, numbers, problem.out, padded_channels(problem, isa, tile))
    return {**pack(params(problem, isa, tile), layer), **rounding}


def params(problem: ConvProblem, isa: Isa, tile: Tile) -> list[Param]:
    """The layer's constants: see the module."""
    channels, width = padded_channels(problem, isa, tile), tile.vectors * isa.lanes
    starts = block_starts(problem, isa, tile)
    covers = [windows(problem, first, min(width, problem.out.shape[0] - first)) for first in starts]
    most = len(starts) * max(len(cover.starts) for cover in covers)  # windows; one may be split into two
    bias = Param("bias", channels, "uint32", lambda layer: start_sums(layer, problem, channels))
    if tile.uniform:
        values = partial(_pack_uniform, problem, isa, tile)
        stored = Stored(problem.weight_bits, isa.lanes * QUAD)
        return [bias, stored.param(1, most * width * QUAD, lambda layer: values(layer.weight), 64)]
    laid = cache(lambda layer: _pack_blocks(problem, isa, tile, layer.weight))
    return [
        bias,
        Param("weights", 2 * most * width * QUAD, "int8", lambda layer: laid(layer)["weights"], is_most=True),
        Param("offsets", 2 * most, "int32", lambda layer: laid(layer)["offsets"], is_most=True),
        Param("blocks", len(starts) * len(KINDS) * FIELDS + 1, "int32", lambda layer: laid(layer)["blocks"]),
    ]


def kind_shares(packed: dict[str, Array]) -> tuple[float, float, float]:
    """Shares of double, narrow and wide windows: what the weights cost. A split window counts as two narrow ones."""
    counts = packed["blocks"][:-1].reshape(-1, len(KINDS), FIELDS)[:, :, 2].sum(0) * (2, 1, 1)
    double, narrow, wide = (float(count) / max(1, int(counts.sum())) for count in counts)
    return double, narrow, wide


def is_uniform(problem: ConvProblem, isa: Isa, weight: Array) -> bool:
    """True if all windows that follow each other in a kernel row can be double, and those left over narrow."""
    if isa.exact_quads or problem.groups > 1:
        return False
    reach = pair_reach(_quads(problem, len(weight), 0, weight)[1])
    doubles, singles = in_twos(problem)
    pairs = np.asarray(doubles, np.intp).reshape(-1, 2)
    sums = np.concatenate([reach[pairs[:, 0]] + reach[pairs[:, 1]], reach[singles]])
    return int(sums.max()) <= NARROW_REACH


def _pack_uniform(problem: ConvProblem, isa: Isa, tile: Tile, weight: Array) -> Array:
    """Double windows, then those left over. Raises ValueError unless `is_uniform`."""
    if not is_uniform(problem, isa, weight):
        raise ValueError(f"conv: these weights leave no room for four products everywhere, {tile} needs it")
    doubles, singles = in_twos(problem)
    order = [index for pair in doubles for index in pair] + singles
    width = tile.vectors * isa.lanes
    blocks = [_quads(problem, width, first, weight)[1][order] for first in block_starts(problem, isa, tile)]
    return np.stack(blocks)


def _pack_blocks(problem: ConvProblem, isa: Isa, tile: Tile, weight: Array) -> dict[str, Array]:
    blocks = [_block(problem, isa, tile, weight, first) for first in block_starts(problem, isa, tile)]
    reaches = [_reaches(block) for block in blocks]
    if isa.exact_quads:
        kinds = [(np.zeros((0, 2), np.intp), np.arange(len(block.starts)), np.zeros(0, np.intp)) for block in blocks]
    else:
        wide = sum(int((reach.max(1, initial=0) > NARROW_REACH).sum()) for reach in reaches)
        if wide <= SPLIT_SHARE * sum(len(block.starts) for block in blocks):
            blocks = [_split(block, reach) for block, reach in zip(blocks, reaches, strict=True)]
            reaches = [_reaches(block) for block in blocks]
        kinds = [_sort_windows(reach, doubles_per_turn(problem)) for reach in reaches]
    return _lay_out(blocks, kinds, tile.compact)


def _reaches(block: _Block) -> Array:
    """The pair reach of each channel, by window; a block of zero weights has no window."""
    reach = pair_reach(block.quads)
    return reach.reshape(len(block.starts), reach.size // max(1, len(block.starts)))


def _lay_out(blocks: list[_Block], kinds: list[tuple[Array, Array, Array]], compact: bool) -> dict[str, Array]:
    weights: list[Array] = []
    offsets: list[Array] = []
    orders: dict[bytes, int] = {}
    table: list[int] = []
    at = used = any_wide = 0
    for block, (double, narrow, wide) in zip(blocks, kinds, strict=True):
        order = block.starts[np.concatenate([double.reshape(-1), narrow, wide])]
        first = orders.setdefault(order.tobytes(), used)
        if first == used:
            offsets.append(order)
            used += len(order)
        parts = [block.quads[double], block.quads[narrow], _widen(block.quads[wide], compact)]
        for part, entries in zip(parts, (2 * len(double), len(narrow), len(wide)), strict=True):
            table += [at, first, len(part)]
            weights.append(part.view(np.int8).reshape(-1))
            at += part.nbytes
            first += entries
        any_wide |= len(wide) > 0
    return {
        "weights": np.concatenate([*weights, np.zeros(1 if at == 0 else 0, np.int8)]),
        "offsets": np.concatenate([*offsets, np.zeros(1 if used == 0 else 0, np.int32)]),
        "blocks": np.asarray([*table, any_wide], np.int32),
    }


def _block(problem: ConvProblem, isa: Isa, tile: Tile, weight: Array, first: int) -> _Block:
    """The windows of one block that hold a weight."""
    starts, quads = _quads(problem, tile.vectors * isa.lanes, first, weight)
    present = quads.any(axis=(1, 2))
    return _Block(starts[present], np.ascontiguousarray(quads[present]))


def _quads(problem: ConvProblem, width: int, first: int, weight: Array) -> tuple[Array, Array]:
    """Distances and weights [window][channel][4] of `width` channels; bytes that belong to no weight count zero."""
    count = min(width, problem.out.shape[0] - first)
    cover: Windows = windows(problem, first, count)
    group_out = problem.out.shape[0] // problem.groups
    group_in = problem.x.shape[0] // problem.groups
    dense = np.zeros((width, cover.channels, *problem.kernel), np.int8)
    if problem.groups == 1:
        dense[:count] = weight[first : first + count]
    else:
        for row in range(count):
            channel = (first + row) // group_out * group_in - cover.first_channel
            dense[row, channel : channel + group_in] = weight[first + row]
    flat = np.concatenate([dense.reshape(width, -1), np.zeros((width, 1), np.int8)], axis=1)
    quads = flat[:, np.asarray(cover.slots)].reshape(width, -1, QUAD).transpose(1, 0, 2)
    return np.asarray(cover.starts, np.int32), quads


def _split(block: _Block, reach: Array) -> _Block:
    """Each window that is not narrow becomes two that are: |w >> 1| and |w - (w >> 1)| are at most 64."""
    wide = reach.max(1, initial=0) > NARROW_REACH
    half = block.quads[wide] >> 1
    starts = np.concatenate([block.starts[~wide], block.starts[wide], block.starts[wide]])
    quads = np.concatenate([block.quads[~wide], half, block.quads[wide] - half])
    order = np.argsort(starts, kind="stable")
    return _Block(starts[order], quads[order])


def _sort_windows(reach: Array, turn: int) -> tuple[Array, Array, Array]:
    """(double [n][2], narrow, wide) indices of windows, given their reaches [window][channel, pair, sign].

    n is a multiple of `turn`.
    """
    hardest = reach.max(1, initial=0)
    easy = np.flatnonzero(hardest <= NARROW_REACH)
    easy = easy[np.argsort(hardest[easy], kind="stable")]
    double = max(_neighbours(reach), _matched(reach, easy), key=len)
    double.sort(axis=1)
    double = double[: len(double) // turn * turn]
    narrow = np.setdiff1d(easy, double)
    return double[np.argsort(double[:, 0])], narrow, np.flatnonzero(hardest > NARROW_REACH)


def _neighbours(reach: Array) -> Array:
    """Pairs of windows that follow each other, for which weights may have been made (`fxquant.products`)."""
    first = np.arange(0, len(reach) - 1, 2)
    fits = (reach[first] + reach[first + 1]).max(1, initial=0) <= NARROW_REACH
    return np.stack([first[fits], first[fits] + 1], axis=1)


def _matched(reach: Array, left: Array) -> Array:
    """Pairs out of `left`, sorted by hardness: the easiest are offered to the hardest, a few rounds of it."""
    found: list[Array] = [np.zeros((0, 2), np.intp)]
    free = np.ones(len(reach), np.bool_)
    for turn in range(MATCHING_ROUNDS):
        half = len(left) // 2
        easy, hard = left[:half], np.roll(left[len(left) - half :][::-1], turn)
        fits = (reach[easy] + reach[hard]).max(1, initial=0) <= NARROW_REACH
        found.append(np.stack([easy[fits], hard[fits]], axis=1))
        free[found[-1]] = False
        left = left[free[left]]
    return np.concatenate(found)


def _widen(quads: Array, compact: bool) -> Array:
    """[window][channel][4] s8 as [window][bytes 0-1, bytes 2-3][channel][2], s16 unless `compact`."""
    pairs = quads.reshape(*quads.shape[:2], 2, 2).transpose(0, 2, 1, 3)
    return np.ascontiguousarray(pairs, np.int8 if compact else np.int16)
