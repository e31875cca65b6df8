"""A share of the range that was seen: what clips on purpose, by so much."""

from __future__ import annotations

import torch
from torch import Tensor

from fxquant.errors import SchemeError
from fxquant.observers.base import Observer
from fxquant.observers.registry import register
from fxquant.scheme import Scheme


@register("shrunk")
class Shrunk(Observer):
    """The extremes times `share`. The pass FitRanges finds the best one by what the readers of a value make of it."""

    def __init__(self, scheme: Scheme, where: str = "", *, share: float = 0.5) -> None:
        """`share` in (0, 1] of both ends; 1 clips nothing."""
        super().__init__(scheme, where)
        if not 0.0 < share <= 1.0:
            raise SchemeError(f"a share of {share} must be in (0, 1]")
        self.share = share

    @property
    def options(self) -> dict[str, float]:
        """The share."""
        return {"share": self.share}

    def bounds(self) -> tuple[Tensor, Tensor]:
        """A share of the extremes."""
        return self.low.to(torch.float64) * self.share, self.high.to(torch.float64) * self.share
