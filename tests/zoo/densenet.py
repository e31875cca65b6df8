"""DenseNet-121 (Huang et al. 2017, arXiv:1608.06993): long concats, batch norm before the convolution.

A layer's first batch norm follows a concat, so it folds into no convolution before it: it must become an affine step
of its own.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

GROWTH = 32
BOTTLENECK = 4 * GROWTH


class DenseLayer(nn.Module):
    """All features of the block so far, a list of (N, *, H, W), to GROWTH new ones (N, GROWTH, H, W)."""

    def __init__(self, inputs: int) -> None:
        super().__init__()
        self.norm1 = nn.BatchNorm2d(inputs)
        self.conv1 = nn.Conv2d(inputs, BOTTLENECK, 1, bias=False)
        self.norm2 = nn.BatchNorm2d(BOTTLENECK)
        self.conv2 = nn.Conv2d(BOTTLENECK, GROWTH, 3, padding=1, bias=False)
        self.relu = nn.ReLU(inplace=True)

    def forward(self, features: list[Tensor]) -> Tensor:
        x: Tensor = self.conv1(self.relu(self.norm1(torch.cat(features, 1))))
        x = self.conv2(self.relu(self.norm2(x)))
        return x


class DenseBlock(nn.Module):
    """`depth` dense layers: (N, inputs, H, W) -> (N, inputs + depth * GROWTH, H, W)."""

    def __init__(self, inputs: int, depth: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(DenseLayer(inputs + index * GROWTH) for index in range(depth))

    def forward(self, x: Tensor) -> Tensor:
        features = [x]
        for layer in self.layers:
            features.append(layer(features))
        return torch.cat(features, 1)


def transition(channels: int) -> nn.Sequential:
    """Halves the channels and the resolution."""
    return nn.Sequential(
        nn.BatchNorm2d(channels),
        nn.ReLU(inplace=True),
        nn.Conv2d(channels, channels // 2, 1, bias=False),
        nn.AvgPool2d(2, 2),
    )


class DenseNet(nn.Module):
    """Images (N, 3, H, W) to logits (N, classes): 7,978,856 parameters at the default depths, 2.8 GMAC at 224x224."""

    def __init__(self, depths: tuple[int, ...] = (6, 12, 24, 16), classes: int = 1000) -> None:
        super().__init__()
        channels = 2 * GROWTH
        layers: list[nn.Module] = [
            nn.Conv2d(3, channels, 7, 2, 3, bias=False),
            nn.BatchNorm2d(channels),
            nn.ReLU(inplace=True),
            nn.MaxPool2d(3, 2, 1),
        ]
        for index, depth in enumerate(depths):
            if index > 0:
                layers.append(transition(channels))
                channels //= 2
            layers.append(DenseBlock(channels, depth))
            channels += depth * GROWTH
        layers.append(nn.BatchNorm2d(channels))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.relu(self.features(x), inplace=True)
        x = nn.functional.adaptive_avg_pool2d(x, (1, 1))
        logits: Tensor = self.classifier(torch.flatten(x, 1))
        return logits
