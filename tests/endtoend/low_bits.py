"""A network with every operation that reads weights, odd channels and tails, for weights of few bits."""

from __future__ import annotations

from functools import lru_cache

import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant


class Weighted(nn.Module):
    """Convolutions (pointwise, strided, grouped, depthwise, transposed, 1-d), linear layers, a matrix, a table."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Conv2d(3, 9, 3, padding=1)
        self.deep = nn.Conv2d(9, 9, 3, padding=1, groups=9)
        self.point = nn.Conv2d(9, 16, 1)
        self.conv = nn.Conv2d(16, 16, 3, padding=1)
        self.wide = nn.Conv2d(16, 16, 3, padding=1, stride=2, groups=16)
        self.grouped = nn.Conv2d(16, 8, 3, groups=2, padding=1)
        self.up = nn.ConvTranspose2d(8, 6, 3, stride=2)
        self.one = nn.Conv1d(6, 5, 3)
        self.fc, self.rows = nn.Linear(35, 12), nn.Linear(12, 8)
        self.table = nn.Embedding(11, 7)
        self.matrix = nn.Parameter(torch.randn(2, 4, 5))

    def forward(self, x: Tensor, index: Tensor) -> tuple[Tensor, Tensor]:
        """Images (N, 3, 8, 8), indices (N, 4)."""
        x = F.relu(self.point(self.deep(F.relu(self.first(x)))))
        x = F.relu(self.grouped(self.wide(F.relu(self.conv(x) + x))))
        x = self.one(self.up(x)[:, :, 0]).flatten(1)
        x = self.rows(F.relu(self.fc(x)))
        return x.reshape(-1, 2, 1, 4) @ self.matrix, self.table(index)


def inputs() -> tuple[Tensor, Tensor]:
    """Four samples, the same ones every time."""
    generator = torch.Generator().manual_seed(5)
    return torch.randn(4, 3, 8, 8, generator=generator), torch.randint(0, 11, (4, 4), generator=generator)


@lru_cache
def few_bits(even: int, odd: int) -> fx.GraphModule:
    """The INTEGER graph, layers in turn with weights of so many bits."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(3)
        model = Weighted()
    turns = [name for name, _ in model.named_children()][1::2]
    rules = [{"match": "*", "weight": {"bits": even}}, *({"match": name, "weight": {"bits": odd}} for name in turns)]
    return fxquant.quantize(fxquant.trace(model, inputs()), [inputs()], recipe={"rules": rules}, progress=False)
