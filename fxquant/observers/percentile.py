"""The range that leaves out a given share of the values at each end."""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

from fxquant.errors import SchemeError
from fxquant.observers.clipping import Clipping
from fxquant.observers.registry import register
from fxquant.scheme import Scheme


@register("percentile")
class Percentile(Clipping):
    """From the (100 - p)-th to the p-th percentile, to the resolution of the histogram, rounded outward.

    At most (100 - p) % of the values lie below the range and as many above it.
    """

    def __init__(self, scheme: Scheme, where: str = "", *, p: float = 99.99) -> None:
        """`p` in (50, 100], in percent; 100 clips nothing."""
        super().__init__(scheme, where)
        if not 50.0 < p <= 100.0:
            raise SchemeError(f"percentile {p} must be in (50, 100]")
        self.p = p

    @property
    def options(self) -> dict[str, float]:
        """The percentile."""
        return {"p": self.p}

    def clip(self, counts: NDArray[np.int64], width: float, low: float, high: float) -> tuple[float, float]:
        """Outer edges of the bins that hold the two percentiles."""
        side = (len(counts) + 1) // 2
        below = np.cumsum(counts)
        total = int(below[-1])
        cut = math.floor(total * ((100.0 - self.p) / 100.0))
        # The first bins from either end that would cut off more than is allowed.
        first = int(np.searchsorted(below, cut, side="right")) - (side - 1)
        last = int(np.searchsorted(below, total - cut, side="left")) - (side - 1)
        # Bin i > 0 is [i, i + 1), bin i < 0 is (i - 1, i], and bin 0 is (-1, 1), in widths.
        return (first - (first <= 0)) * width, (last + (last >= 0)) * width
