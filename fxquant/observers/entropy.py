"""The range whose quantized distribution tells the most about the real one: least Kullback-Leibler divergence.

The method of S. Migacz, "8-bit inference with TensorRT" (GTC 2017): for each threshold t, P is the histogram cut to
[-t, t] with the clipped values added to its end bins; Q is the cut histogram (without them) after quantization, where
the mass of each code is spread evenly over those of its bins in which P is not zero. The t of least KL(P || Q) wins.

Three things are ours. The codes' cells are those of the actual scheme, affine or symmetric, signed or not, and the
range is [max(-t, low), min(t, high)]. The zero bin is filled up like its neighbours, as zero is exact in any scheme.
And all sums per candidate come from prefix sums, with N values in P and M in Q:
KL = (sum P ln P - sum over codes P_c ln(Q_c / bins_c)) / N - ln N + ln M.
"""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from fxquant.observers.clipping import Clipping
from fxquant.observers.histogram import Floats, fold, unit_cells
from fxquant.observers.registry import register
from fxquant.qparams import QParams, choose_qparams

# Bins a side, as published: with more of them, most hold too few values to tell a distribution.
SIDE = 2048
CANDIDATES = 256


@register("entropy")
class Entropy(Clipping):
    """Keeps the shape of the distribution; for 8 bits or less. With more codes than bins nothing is clipped."""

    def clip(self, counts: NDArray[np.int64], width: float, low: float, high: float) -> tuple[float, float]:
        """The range of the best threshold; of several equally good ones, the widest."""
        side = (len(counts) + 1) // 2
        growth = max(0, (side // SIDE).bit_length() - 1)
        folded = fold(torch.from_numpy(counts), growth, side)[side - (side >> growth) : side - 1 + (side >> growth)]
        cells, width = unit_cells(folded.numpy()), width * 2.0**growth
        used = np.flatnonzero(cells)
        if not len(used):
            return low, high
        half = len(cells) // 2
        cells[half - 1], cells[half] = cells[half - 2], cells[half + 1]
        first, last = min(int(used[0]), half - 1), max(int(used[-1]) + 1, half + 1)
        widest = max(half - first, last - half)
        thresholds = np.unique(np.geomspace(1, widest, CANDIDATES).astype(np.int64))[::-1]
        starts, stops = np.maximum(half - thresholds, first), np.minimum(half + thresholds, last)
        lows, highs = (starts - half) * width, (stops - half) * width
        # The cells beside zero may reach beyond data on one side of it.
        lows, highs = np.maximum(lows, min(low, 0.0)), np.minimum(highs, max(high, 0.0))
        found = choose_qparams(lows.tolist(), highs.tolist(), self.scheme.with_(axis=0))
        # With less than a bin to a code there is nothing to tell apart.
        enough = np.array(found.scale) >= width
        if not enough.any():
            return low, high
        loss = np.where(enough, divergence(cells, starts, stops, found, width), np.inf)
        best = int(np.argmin(loss))
        return float(lows[best]), float(highs[best])


def divergence(
    cells: NDArray[np.int64], starts: NDArray[np.int64], stops: NDArray[np.int64], found: QParams, width: float
) -> Floats:
    """KL(P || Q) in nats for each candidate: `cells[start:stop]`, quantized by the candidate's channel of `found`.

    Zero lies between the two middle ones of all `cells`; `width` is that of a cell.
    """
    scale = np.array(found.scale)[:, None] / width
    zero = np.array(found.zero_point)[:, None]
    codes = np.arange(found.qmin, found.qmax)[None, :]
    # A cell belongs to the code that its middle is rounded to.
    borders = np.ceil((codes + 0.5 - zero) * scale - 0.5).astype(np.int64) + len(cells) // 2
    start, stop = starts[:, None], stops[:, None]
    edges = np.concatenate([start, np.clip(borders, start, stop), stop], axis=1)

    mass, occupied, plogp = (_prefix(part) for part in (cells, cells > 0, _xlogx(cells)))
    total = int(mass[-1])
    kept, bins = np.diff(mass[edges], axis=1), np.diff(occupied[edges], axis=1)
    whole = kept.copy()
    loss: Floats = plogp[stops] - plogp[starts]
    rows = np.arange(len(starts))
    for end, outliers in ((starts, mass[starts]), (stops - 1, total - mass[stops])):
        code = (edges <= end[:, None]).sum(axis=1) - 1
        whole[rows, code] += outliers
        bins[rows, code] += (cells[end] == 0) & (outliers > 0)
        loss += _xlogx(cells[end] + outliers) - _xlogx(cells[end])
    # Where only clipped values lie, Q is zero and the divergence infinite: one value stands in.
    spread = np.log(np.maximum(kept, 1) / np.maximum(bins, 1))
    loss = (loss - (whole * spread).sum(axis=1)) / total
    result: Floats = loss - np.log(total) + np.log(np.maximum(kept.sum(axis=1), 1))
    return result


def _prefix(values: NDArray[Any]) -> NDArray[Any]:
    return np.concatenate([np.zeros(1, dtype=values.dtype), values]).cumsum()


def _xlogx(values: NDArray[np.int64]) -> Floats:
    return np.asarray(values * np.log(np.maximum(values, 1)), dtype=np.float64)
