"""Loops over pieces of a fixed size where the size does not divide the whole, and vectors that are not full."""

from __future__ import annotations

from collections.abc import Sequence
from math import ceil
from typing import Any

from fxquant.targets.kernels.words.tir import load
from fxquant.targets.tvm_api import I, T, tirx


def overlapped(index: Any, total: int, step: int) -> Any:
    """Where the piece of `step` elements at `index` starts: the last one overlaps the one before and ends at `total`.

    Nothing is emitted where pieces divide evenly. A `total` under `step` gives a single piece at 0.
    """
    return index if total % step == 0 else T.min(index, max(total - step, 0))


def starts(total: int, step: int) -> list[int]:
    """The starts that `overlapped` gives, for packing what the loop reads."""
    return [max(0, min(start, total - step)) for start in range(0, total, step)]


def dealt(task: Any, rows: int, blocks: int, pieces: int) -> tuple[list[Any], list[Any], int]:
    """Rows and blocks of channels from where to where a task computes, and how many tasks there are: about `pieces`.

    Rows are dealt out first, and blocks where there are few rows.
    """
    row_pieces = min(rows, pieces)
    block_pieces = min(blocks, max(1, pieces // row_pieces))
    row_piece, block_piece = task % row_pieces, task // row_pieces
    own_rows = [I.Bind((row_piece + i) * rows // row_pieces) for i in range(2)]
    own_blocks = [I.Bind((block_piece + i) * blocks // block_pieces) for i in range(2)]
    return own_rows, own_blocks, row_pieces * block_pieces


def load_some(buffer: Any, index: Any, count: int, lanes: int) -> Any:
    """`count` elements in a vector of `lanes`, followed by some of them again; never reads past them."""
    if count == lanes:
        return load(buffer, index, lanes)
    if count == 1:
        return T.broadcast(buffer[index], lanes)
    return shuffle([I.Bind(load(buffer, index, count))] * ceil(lanes / count), list(range(lanes)))


def shuffle(vectors: list[Any], order: list[int]) -> Any:
    """The elements of the concatenated `vectors`, picked by `order`; no more elements than they have together."""
    return tirx.Shuffle(vectors, [tirx.const(index, "int32") for index in order])


def position(number: Any, shape: Sequence[int]) -> list[Any]:
    """The index of the `number`-th element of `shape`."""
    index: list[Any] = []
    left = number
    for size in reversed(shape):
        index.insert(0, left % size if size > 1 else 0)
        left = left // size
    return index


def offset(index: Sequence[Any], strides: Sequence[int]) -> Any:
    """Where the element at `index` is, in elements."""
    at: Any = 0
    for i, s in zip(index, strides, strict=True):
        at = at + i * s
    return at
