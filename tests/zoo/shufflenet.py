"""ShuffleNetV2 x1.0 (Ma et al. 2018, arXiv:1807.11164): chunk, concat and the channel shuffle."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo.blocks import ConvBn


def shuffle_channels(x: Tensor, groups: int = 2) -> Tensor:
    """Interleaves `groups` equal runs of channels: channel g * (C / groups) + i goes to i * groups + g."""
    batch, channels, height, width = x.shape
    x = x.view(batch, groups, channels // groups, height, width)
    return x.transpose(1, 2).contiguous().view(batch, channels, height, width)


def branch(inputs: int, outputs: int, stride: int) -> nn.Sequential:
    """1x1, depthwise 3x3 without activation, 1x1."""
    return nn.Sequential(
        ConvBn(inputs, outputs, 1),
        ConvBn(outputs, outputs, 3, stride, groups=outputs, activation=None),
        ConvBn(outputs, outputs, 1),
    )


class Unit(nn.Module):
    """Half of the channels pass through, the other half through a branch: shape (N, channels, H, W) is kept."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.branch2 = branch(channels // 2, channels // 2, 1)

    def forward(self, x: Tensor) -> Tensor:
        kept, changed = x.chunk(2, dim=1)
        return shuffle_channels(torch.cat((kept, self.branch2(changed)), dim=1))


class DownUnit(nn.Module):
    """Both branches see all channels, at stride 2: (N, inputs, H, W) -> (N, outputs, H / 2, W / 2)."""

    def __init__(self, inputs: int, outputs: int) -> None:
        super().__init__()
        self.branch1 = nn.Sequential(
            ConvBn(inputs, inputs, 3, 2, groups=inputs, activation=None), ConvBn(inputs, outputs // 2, 1)
        )
        self.branch2 = branch(inputs, outputs // 2, 2)

    def forward(self, x: Tensor) -> Tensor:
        return shuffle_channels(torch.cat((self.branch1(x), self.branch2(x)), dim=1))


class ShuffleNetV2(nn.Module):
    """Images (N, 3, H, W) to logits (N, classes): 2,278,604 parameters, 0.15 GMAC at 224x224."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        self.conv1 = ConvBn(3, 24, 3, 2)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 24
        units: list[nn.Module] = []
        for outputs, repeats in ((116, 4), (232, 8), (464, 4)):
            units.append(DownUnit(channels, outputs))
            units.extend(Unit(outputs) for _ in range(repeats - 1))
            channels = outputs
        self.stages = nn.Sequential(*units)
        self.conv5 = ConvBn(channels, 1024, 1)
        self.fc = nn.Linear(1024, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.conv5(self.stages(self.maxpool(self.conv1(x))))
        logits: Tensor = self.fc(x.mean([2, 3]))
        return logits
