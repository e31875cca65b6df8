"""The observers that choose where to clip by looking at a histogram: their common part."""

from __future__ import annotations

from abc import abstractmethod

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fxquant.observers.base import Observer
from fxquant.observers.histogram import Histogram
from fxquant.scheme import Scheme


class Clipping(Observer):
    """An observer with a histogram per channel; `clip` says where to cut one channel's values."""

    def __init__(self, scheme: Scheme, where: str = "") -> None:
        super().__init__(scheme, where)
        self.histogram = Histogram(scheme.per_channel)

    @abstractmethod
    def clip(self, counts: NDArray[np.int64], width: float, low: float, high: float) -> tuple[float, float]:
        """Range of one channel from its `counts` (bins -(side - 1) .. side - 1 of `width`) and its extremes."""

    def record(self, rows: Tensor, low: Tensor, high: Tensor) -> None:
        """Count the values."""
        self.histogram.add(rows, low, high)

    def absorb(self, other: Observer) -> None:
        """Add the other's counts."""
        assert isinstance(other, Clipping)  # `merge` has compared the kinds
        self.histogram.merge(other.histogram)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """What `clip` says for each channel, never beyond the extremes of the data, nor so that nothing is left."""
        pairs: list[tuple[float, float]] = []
        for channel, (least, most) in enumerate(zip(self.low.tolist(), self.high.tolist(), strict=True)):
            counts, width = self.histogram.channel(channel)
            low, high = self.clip(counts, width, least, most)
            pairs.append((min(max(low, least), most), max(min(high, most), least)))
        low_ends, high_ends = torch.tensor(pairs, dtype=torch.float64, device=self.low.device).unbind(1)
        return low_ends, high_ends
