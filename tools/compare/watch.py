"""Statistics of one value over any amount of data, in constant memory: histogram, moments, clipping, saturation."""

from __future__ import annotations

from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from fxquant import observers
from fxquant.observers.clipping import Clipping
from fxquant.observers.moments import MeanStd
from fxquant.plan import Range
from fxquant.scheme import Scheme
from fxquant.tools.compare.parts import Channels, Powers
from fxquant.tools.compare.records import Spread

BINS = 64
# What else could have chosen the range: all of these read a histogram, extremes or moments, none needs the data again.
OTHERS = ("minmax", "percentile:99.99", "mse", "entropy", "mean_std:k=4")


@dataclass
class Watched:
    """What was seen of one value that is quantized by `range`."""

    range: Range
    clipped: int = 0
    saturated: int = 0
    count: int = 0
    powers: Powers = field(default_factory=Powers)
    channels: Channels = field(default_factory=Channels)
    _moments: MeanStd = field(init=False)
    _histogram: Clipping = field(init=False)

    def __post_init__(self) -> None:
        """Observers by the value's own scheme."""
        q = self.range.qparams
        self.scheme = Scheme(q.qmin, q.qmax, symmetric=q.qmin == -q.qmax and q.one_zero_point == 0)
        moments, histogram = (observers.make(self.scheme.with_(observer=name)) for name in ("mean_std", "mse"))
        assert isinstance(moments, MeanStd) and isinstance(histogram, Clipping)
        self._moments, self._histogram = moments, histogram

    def add(self, real: Tensor, integers: Tensor) -> None:
        """Take in one batch."""
        q = self.range.qparams
        low, high = q.real_range
        # Half a step beyond the last code still rounds to it.
        slack = q.one_scale / 2
        self.clipped += int(((real < low - slack) | (real > high + slack)).sum())
        # An end that stands for zero is where the zeros of a ReLU belong.
        for end in {q.qmin, q.qmax} - {q.one_zero_point}:
            self.saturated += int((integers == end).sum())
        self.count += real.numel()
        cut = real.clamp(low, high)
        self.powers.add(real, clipping=cut - real, rounding=q.rounded(real) - cut)
        self.channels.add(real)
        self._moments(real)
        self._histogram(real)

    def spread(self) -> Spread:
        """The distribution, coarsened to BINS bins, and the ranges of other observers."""
        mean, std = (float(x) for x in self._moments.mean_std())
        low, high = float(self._histogram.low), float(self._histogram.high)
        counts, width = self._histogram.histogram.channel(0)
        found = {name: self._range_by(name) for name in OTHERS}
        return Spread(low, high, mean, std, coarse(counts, width, low, high), found)

    def _range_by(self, name: str) -> tuple[float, float]:
        other = observers.make(self.scheme.with_(observer=name))
        source = self._moments if isinstance(other, MeanStd) else self._histogram
        state = {key: value for key, value in source.state().items() if key in other.state()}
        other.load_state(state)
        low, high = other.range()
        return float(low), float(high)


def coarse(counts: NDArray[np.int64], width: float, low: float, high: float) -> tuple[int, ...]:
    """Fine bins -(side - 1) .. side - 1 of `width`, each counted in the coarse one that its middle lies in."""
    side = (len(counts) + 1) // 2
    index = np.arange(-(side - 1), side)
    middles = np.where(index == 0, 0.0, (index + np.sign(index) * 0.5) * width)
    span = high - low
    places = np.clip(((middles - low) / span * BINS).astype(int), 0, BINS - 1) if span > 0 else np.zeros_like(index)
    return tuple(int(n) for n in np.bincount(places, weights=counts, minlength=BINS))
