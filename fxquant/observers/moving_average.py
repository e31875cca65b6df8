"""The average range of recent batches.

Each batch (one call of `forward`) gives one smallest and one largest value per channel, and the range is their mean,
where the last batch weighs 1, the one before `decay`, then `decay^2`, and so on. Dividing by the sum of the weights is
the bias correction of Kingma and Ba (Adam, 2015, section 3).

A running average is rounded at every step, so merging two would not give what one run gives. Instead the batches are
kept whose weight still counts (at least 2^-30 of the last one's): a window of bounded length; merging is appending.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor

from fxquant.errors import SchemeError
from fxquant.observers.base import Observer
from fxquant.observers.registry import register
from fxquant.scheme import Scheme


@register("moving_average")
class MovingAverage(Observer):
    """Batches decide together: a single odd batch moves the range little. What order they come in matters."""

    lows: Tensor
    highs: Tensor

    def __init__(self, scheme: Scheme, where: str = "", *, decay: float = 0.9) -> None:
        """`decay` in [0, 0.999]: a batch's weight relative to the next one's; 0 takes the last batch alone."""
        super().__init__(scheme, where)
        if not 0.0 <= decay <= 0.999:
            raise SchemeError(f"decay {decay} of a moving average must be in [0, 0.999]")
        self.decay = decay
        self.window = 1 if decay == 0.0 else 1 + math.ceil(-30 / math.log2(decay))
        self.register_buffer("lows", torch.zeros(0, len(self.low)))
        self.register_buffer("highs", torch.zeros(0, len(self.high)))

    @property
    def options(self) -> dict[str, float]:
        """The decay."""
        return {"decay": self.decay}

    def record(self, rows: Tensor, low: Tensor, high: Tensor) -> None:
        """Append the extremes of one batch."""
        self._append(low[None], high[None])

    def absorb(self, other: Observer) -> None:
        """Append the batches of `other`."""
        assert isinstance(other, MovingAverage)  # `merge` has compared the kinds
        self._append(other.lows, other.highs)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Weighted means over the window."""
        ages = torch.arange(len(self.lows) - 1, -1, -1, dtype=torch.float64, device=self.lows.device)
        weights = (self.decay**ages)[:, None]
        low, high = ((weights * ends.to(torch.float64)).sum(0) / weights.sum() for ends in (self.lows, self.highs))
        return low, high

    def _append(self, lows: Tensor, highs: Tensor) -> None:
        device = self.lows.device
        if not len(self.lows):
            self.lows, self.highs = lows[:0].to(device), highs[:0].to(device)
        self.lows = torch.cat([self.lows, lows.to(device)])[-self.window :].clone()
        self.highs = torch.cat([self.highs, highs.to(device)])[-self.window :].clone()
