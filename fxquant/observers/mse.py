"""The range with the smallest expected squared error of quantization.

The histogram is read as a density, uniform within each bin and a point mass at 0 for the zero bin (0 has no error under
any scheme). For a candidate's scale s and zero point z the error is the integral of (x - Q(x))^2, a sum over cells of
codes k: S2 - 2 x_k S1 + x_k^2 S0, where x_k = s (k - z) and S0, S1, S2 are the density's moments over the cell,
differences of antiderivatives that are interpolated inside a bin. Rounding and clipping error are thus counted alike.

Candidates are ranges [f low, g high] of the data's extremes, f and g first on a coarse logarithmic grid, then closer
around the best. A symmetric scheme, or data on one side of zero, has one free end, else there are two. Each candidate
goes through `choose_qparams`: what is judged is what will be used.
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from fxquant.observers.clipping import Clipping
from fxquant.observers.histogram import Floats, unit_cells
from fxquant.observers.registry import register
from fxquant.qparams import QParams, choose_qparams

# The search spans 10 octaves below the extremes; points per end of the grid, then of each closer one.
OCTAVES = 10
COARSE = {1: 64, 2: 24}
CLOSER = {1: 9, 2: 7}
ROUNDS = 3

# With more codes than this the error inside the range is taken as s^2 / 12, true for any density smooth at that scale.
MOST_CELLS = 512


@register("mse")
class MSE(Clipping):
    """Weighs what clipping costs against what a coarser grid costs."""

    def clip(self, counts: NDArray[np.int64], width: float, low: float, high: float) -> tuple[float, float]:
        """The best candidate; the widest of several equally good ones."""
        low, high = min(low, 0.0), max(high, 0.0)
        density = Density(counts, width)
        ends = 1 if self.scheme.symmetric or low == 0.0 or high == 0.0 else 2
        scheme = self.scheme.with_(axis=0)
        step = OCTAVES / COARSE[ends]
        octaves = -step * np.arange(COARSE[ends])
        best_low = best_high = 0.0
        for _ in range(1 + ROUNDS):
            f, g = (grid.ravel() for grid in np.meshgrid(best_low + octaves, best_high + octaves, indexing="ij"))
            if ends == 1:
                f = g = best_low + octaves
            f, g = np.minimum(f, 0.0), np.minimum(g, 0.0)
            candidates = choose_qparams((low * np.exp2(f)).tolist(), (high * np.exp2(g)).tolist(), scheme)
            best = int(np.argmin(density.squared_error(candidates)))
            best_low, best_high = float(f[best]), float(g[best])
            octaves = np.linspace(step, -step, CLOSER[ends])
            step *= 2 / (CLOSER[ends] - 1)
        return low * 2.0**best_low, high * 2.0**best_high


class Density:
    """The values of a channel as a density, and its moments up to any point."""

    def __init__(self, counts: NDArray[np.int64], width: float) -> None:
        """Take `counts` of the bins of a `Histogram`, `width` wide."""
        self.width = width
        self.cells = unit_cells(counts).astype(np.float64)
        self.side = len(self.cells) // 2
        edges = np.arange(-self.side, self.side + 1, dtype=np.float64)
        zero = np.zeros(1)
        self.sums = [
            np.concatenate([zero, np.cumsum(self.cells * np.diff(edges ** (order + 1)) / (order + 1))])
            for order in range(3)
        ]

    def moments(self, points: Floats) -> list[Floats]:
        """Integrals of 1, x and x^2 times the density up to `points`, all in widths of a bin."""
        points = np.clip(points, -self.side, self.side)
        left = np.minimum(np.floor(points), self.side - 1)
        index = left.astype(np.int64) + self.side
        part = (points - left) * self.cells[index]
        powers: list[Floats] = [np.ones(()), (points + left) / 2, (points * (points + left) + left * left) / 3]
        return [sums[index] + part * power for sums, power in zip(self.sums, powers, strict=True)]

    def squared_error(self, candidates: QParams) -> Floats:
        """Sum of squared errors, in squared widths, for each channel of `candidates`."""
        scale = np.array(candidates.scale)[:, None] / self.width
        zero = np.array(candidates.zero_point, dtype=np.float64)[:, None]
        fine = candidates.qmax - candidates.qmin >= MOST_CELLS
        ends = [candidates.qmin, candidates.qmax]
        codes = np.array(ends) if fine else np.arange(ends[0], ends[1] + 1)
        values = (codes - zero) * scale
        inner = values if fine else (values[:, 1:] + values[:, :-1]) / 2
        border = np.full((len(scale), 1), float(self.side))
        s0, s1, s2 = (np.diff(m, axis=1) for m in self.moments(np.concatenate([-border, inner, border], axis=1)))
        if not fine:
            return _total(s0, s1, s2, values)
        # Outer cells: clipped to the end value. Between them: the noise of rounding.
        clipped = _total(s0[:, ::2], s1[:, ::2], s2[:, ::2], values)
        noise: Floats = s0[:, 1] * (scale[:, 0] ** 2 / 12)
        return clipped + noise


def _total(s0: Floats, s1: Floats, s2: Floats, values: Floats) -> Floats:
    total: Floats = (s2 - 2 * values * s1 + values**2 * s0).sum(axis=1)
    return total
