"""One network for the tests of training, with what shares ranges, what is known, norms and look-ups."""

from __future__ import annotations

from functools import cache
from typing import Any

import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.training import TrainingGraph

DATA = [torch.randn(10, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(2)]


class Mixed(nn.Module):
    """Images (N, 3, 8, 8) to (N, 5)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.norm = nn.Conv2d(3, 8, 3, padding=1), nn.BatchNorm2d(8)
        self.deep, self.deep_norm = nn.Conv2d(8, 8, 3, padding=1, groups=8, bias=False), nn.BatchNorm2d(8)
        self.rows, self.last = nn.LayerNorm(16), nn.Linear(16, 5)

    def forward(self, x: Tensor) -> Tensor:
        """The logits."""
        y = torch.relu(self.norm(self.stem(x)))
        y = torch.sigmoid(y + self.deep_norm(self.deep(y)))
        y = torch.cat([y, nn.functional.max_pool2d(y, 3, 1, 1)], 1)
        found: Tensor = self.last(self.rows(y.mean((2, 3))))
        return found


@cache
def _float() -> fx.GraphModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Mixed()
        for x in DATA:
            model(x)  # so that the norms have statistics
    return fxquant.trace(model.eval(), DATA[0])


def traced() -> fx.GraphModule:
    """The FLOAT graph; nobody changes it."""
    return _float()


def few(weight: int, activation: int | None = None) -> dict[str, Any]:
    """A recipe of so many bits for all, sensitive layers too."""
    every = {"match": "aten.*", "weight": {"bits": weight}}
    return {"activation": {"bits": activation or weight}, "rules": [every]}


def trained(bits: int, steps: int, live: bool = False) -> TrainingGraph:
    """A TRAINING graph after some steps, with frozen norms unless `live`."""
    model = fxquant.prepare_qat(traced(), few(bits), DATA, freeze_after=None if live else 0, progress=False)
    optimizer = torch.optim.SGD(fxquant.qat_parameters(model), lr=0.05)
    for number in range(steps):
        optimizer.zero_grad()
        model(DATA[number % 2]).square().mean().backward()
        optimizer.step()
    return model
