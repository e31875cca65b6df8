"""Loops over pieces of a fixed size where the size does not divide the whole, and vectors that are not full."""

from __future__ import annotations

from math import ceil
from typing import Any

from fxquant.targets.kernels.simd import load
from fxquant.targets.tvm_api import I, T, tirx


def overlapped(index: Any, total: int, step: int) -> Any:
    """Where the piece of `step` elements at `index` starts: the last one overlaps the one before and ends at `total`.

    Nothing is emitted where pieces divide evenly. A `total` under `step` gives a single piece at 0.
    """
    return index if total % step == 0 else T.min(index, max(total - step, 0))


def starts(total: int, step: int) -> list[int]:
    """The starts that `overlapped` gives, for packing what the loop reads."""
    return [max(0, min(start, total - step)) for start in range(0, total, step)]


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
