"""A histogram that merges exactly: integer counts on a grid that only ever coarsens by powers of two.

Bin i of a channel with exponent e holds the values with trunc(x / w) == i, where w = 2^e / SIDE: bin 0 is (-w, w), a
bin i > 0 is [i w, (i + 1) w), and the negative side mirrors it. e is the least exponent with |x| < 2^e for all data.
When e grows by d, bin i goes to bin trunc(i / 2^d), and since trunc(trunc(y) / 2^d) == trunc(y / 2^d), the counts are
those that the final grid would have had from the start. So the state depends on the data alone, not on order or split.
An outlier coarsens the grid for all: with 8192 bins a side, data 16 times smaller than it still has 512.
"""

from __future__ import annotations

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fxquant.observers.base import Stateful

# Bins on each side of zero. Per channel they are fewer, since memory goes with the number of channels.
SIDE = 8192
SIDE_PER_CHANNEL = 1024

# Smallest exponent: below it everything is zero to any scale we have, and 2^-e would leave float32.
LOWEST_EXPONENT = -112

# Values binned at a time: the intermediate arrays stay in the cache.
CHUNK = 1 << 17

Floats = NDArray[np.float64]


class Histogram(Stateful):
    """Counts of values per channel: `counts` int64 [channels, 2 side - 1], `exponent` int64 [channels]."""

    counts: Tensor
    exponent: Tensor

    def __init__(self, per_channel: bool = False) -> None:
        super().__init__()
        self.side = SIDE_PER_CHANNEL if per_channel else SIDE
        channels = 0 if per_channel else 1
        self.register_buffer("counts", torch.zeros(channels, 2 * self.side - 1, dtype=torch.int64))
        self.register_buffer("exponent", torch.full((channels,), LOWEST_EXPONENT, dtype=torch.int64))

    def add(self, rows: Tensor, low: Tensor, high: Tensor) -> None:
        """Count finite float32 `rows` [channels, values], whose extremes are `low` and `high` [channels]."""
        self._cover(exponent_of(torch.maximum(-low, high)))
        for channel, row in enumerate(rows.numpy()):
            shift = self.side.bit_length() - 1 - int(self.exponent[channel])
            self.counts[channel] += torch.from_numpy(count_bins(row, shift, self.side)).to(self.counts.device)

    def merge(self, other: Histogram) -> None:
        """Count what `other` has counted, too."""
        self._cover(other.exponent)
        for channel, counts in enumerate(other.counts):
            growth = int(self.exponent[channel]) - int(other.exponent[channel])
            self.counts[channel] += fold(counts, growth, self.side).to(self.counts.device)

    def channel(self, index: int) -> tuple[NDArray[np.int64], float]:
        """Counts of one channel, bins -(side - 1) .. side - 1, and the width of its bins."""
        width = 2.0 ** int(self.exponent[index]) / self.side
        return self.counts[index].cpu().numpy(), width

    @property
    def channels(self) -> int:
        """Number of channels, 0 before a per-channel histogram has seen any."""
        return len(self.exponent)

    def _cover(self, exponent: Tensor) -> None:
        if not self.channels:
            self.counts = self.counts.new_zeros(len(exponent), self.counts.shape[1])
            self.exponent = torch.full_like(exponent, LOWEST_EXPONENT)
        grown = torch.maximum(self.exponent, exponent.to(self.exponent.device))
        for channel in torch.nonzero(grown > self.exponent).flatten().tolist():
            growth = int(grown[channel]) - int(self.exponent[channel])
            self.counts[channel] = fold(self.counts[channel], growth, self.side)
        self.exponent = grown


def exponent_of(magnitude: Tensor) -> Tensor:
    """The smallest e >= LOWEST_EXPONENT with magnitude < 2^e, int64, elementwise."""
    exponent = torch.frexp(magnitude.to(torch.float64)).exponent.to(torch.int64)
    # To frexp, zero has the exponent 0.
    return torch.where(magnitude > 0, exponent, LOWEST_EXPONENT).clamp_min(LOWEST_EXPONENT)


def fold(counts: Tensor, growth: int, side: int) -> Tensor:
    """`counts` [2 side - 1] on the grid that is 2^growth times coarser; growth >= 0."""
    if growth == 0:
        return counts
    step = 1 << min(growth, side.bit_length() - 1)
    kept = side // step
    # With a place for the zero bin both sides have `side` bins; the first of the coarse ones is shared again.
    positive, negative = counts[side - 1 :].clone(), counts[: side - 1].flip(0)
    negative = torch.cat([negative.new_zeros(1), negative])
    positive, negative = positive.reshape(kept, step).sum(1), negative.reshape(kept, step).sum(1)
    coarse = torch.zeros_like(counts)
    coarse[side - 1 : side - 1 + kept] = positive
    coarse[side - kept : side] += negative.flip(0)
    return coarse


def count_bins(values: NDArray[np.float32], shift: int, side: int) -> NDArray[np.int64]:
    """Counts [2 side - 1] of trunc(values * 2^shift), each of which must be within (-side, side)."""
    counts = np.zeros(2 * side - 1, dtype=np.int64)
    for start in range(0, len(values), CHUNK):
        # Exact, being a power of two; where it underflows, trunc gives 0 anyway.
        place = (values[start : start + CHUNK] * np.float32(2.0**shift)).astype(np.int64)
        place += side - 1
        counts += np.bincount(place, minlength=2 * side - 1)
    return counts


def unit_cells(counts: NDArray[np.int64]) -> NDArray[np.int64]:
    """`counts` [2 side - 1] as 2 side cells [j, j + 1), j = -side .. side - 1; those of the zero bin are left empty."""
    side = (len(counts) + 1) // 2
    return np.concatenate([counts[: side - 1], np.zeros(2, dtype=np.int64), counts[side:]])
