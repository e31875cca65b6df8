"""Values of a graph that have been divided by a factor for each channel, so that they compare with the model's.

`EqualizeLayers` scales channels between two layers. What the graph gives stays the same; values in between are others
than the model computes, and whoever compares them with it divides the model's by these factors.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor, fx

EQUALIZED = "fxq.equalized"


@dataclass(frozen=True)
class Divided:
    """A value divided by `factors`, one for each channel along `axis`."""

    axis: int
    factors: tuple[float, ...]

    def of(self, real: Tensor) -> Tensor:
        """The value, of what it would be without."""
        return real / _along(self.factors, self.axis, real.ndim)


def note_divided(module: fx.GraphModule, name: str, axis: int, factors: Tensor) -> None:
    """Write down that the value called `name` is divided by `factors`, besides what it was divided by before."""
    known = equalized(module)
    before = torch.tensor(known[name].factors, dtype=torch.float64) if name in known else 1.0
    found = Divided(axis, tuple((factors.double() * before).tolist()))
    module.meta[EQUALIZED] = {**known, name: found}


def equalized(module: fx.GraphModule) -> Mapping[str, Divided]:
    """The divided values, by name."""
    found: Mapping[str, Divided] = module.meta.get(EQUALIZED, {})
    return found


def _along(factors: tuple[float, ...], axis: int, ndim: int) -> Tensor:
    shape = [1] * ndim
    shape[axis] = -1
    return torch.tensor(factors).reshape(shape)
