"""The plainest range: from the smallest to the largest value seen."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.observers.base import Observer
from fxquant.observers.registry import register


@register("minmax")
class MinMax(Observer):
    """Nothing is ever clipped; one outlier costs every other value precision."""

    def bounds(self) -> tuple[Tensor, Tensor]:
        """Extremes of the data."""
        return self.low.to(torch.float64), self.high.to(torch.float64)
