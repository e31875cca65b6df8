"""Small classifiers that learn on the device."""

from __future__ import annotations

from functools import lru_cache

import torch
from torch import Tensor, fx, nn

import fxquant

CLASSES, FEATURES = 5, 12


class Classifier(nn.Module):
    """A convolution, and scores of it; `end` follows them."""

    def __init__(self, end: nn.Module | None = None, bias: bool = True) -> None:
        super().__init__()
        self.conv, self.hidden = nn.Conv2d(1, 3, 3), nn.Linear(12, FEATURES)
        self.head, self.end = nn.Linear(FEATURES, CLASSES, bias=bias), end

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 1, 4, 4)."""
        x = torch.relu(self.hidden(torch.relu(self.conv(x)).flatten(1)))
        y: Tensor = self.head(x)
        return y if self.end is None else self.end(y)


class Both(Classifier):
    """Two inputs, and features as a second output."""

    def forward(self, x: Tensor, label: Tensor) -> tuple[Tensor, Tensor]:  # type: ignore[override]
        """Images; the second input has the name that a step gives its own."""
        x = torch.relu(self.hidden(torch.relu(self.conv(x + label)).flatten(1)))
        return x, self.head(x)


_NOISE = torch.Generator().manual_seed(2)
LABELS = torch.arange(64) * 7 % CLASSES
# Of each class a pattern, under noise.
IMAGES = torch.randn(CLASSES, 1, 4, 4, generator=_NOISE)[LABELS] + torch.randn(64, 1, 4, 4, generator=_NOISE) / 2


@lru_cache
def quantized(end: str = "", bias: bool = True, bits: int = 8, scale: float = 1.0) -> fx.GraphModule:
    """A classifier of random weights that ends in "softmax", "log_softmax" or nothing, INTEGER.

    `scale` is how far its scores reach: those of random weights, little, hold no great difference between classes.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(1)
        ends = {"softmax": nn.Softmax(-1), "log_softmax": nn.LogSoftmax(-1), "": None}
        model = Classifier(ends[end], bias).eval()
        model.head.weight.data *= scale
        recipe = {"rules": [{"match": "*", "weight": {"bits": bits}}]}
        return fxquant.quantize(fxquant.trace(model, IMAGES[:2]), [IMAGES], recipe=recipe, progress=False)


@lru_cache
def both() -> fx.GraphModule:
    """The INTEGER graph of Both."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(4)
        pair = IMAGES[:32], IMAGES[32:]
        return fxquant.quantize(fxquant.trace(Both().eval(), pair), [pair], progress=False)
