"""A U-Net (Ronneberger et al. 2015, arXiv:1505.04597), padded: transposed convolutions and concats across the net."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from tests.zoo.blocks import ConvBn


def double_conv(inputs: int, outputs: int) -> nn.Sequential:
    """Two 3x3 convolutions at one resolution."""
    return nn.Sequential(ConvBn(inputs, outputs, 3), ConvBn(outputs, outputs, 3))


class Up(nn.Module):
    """Doubles x's resolution and joins the skip: (N, 2 * C, H, W) and (N, C, 2 * H, 2 * W) -> (N, C, 2 * H, 2 * W)."""

    def __init__(self, channels: int) -> None:
        super().__init__()
        self.up = nn.ConvTranspose2d(2 * channels, channels, 2, 2)
        self.conv = double_conv(2 * channels, channels)

    def forward(self, x: Tensor, skip: Tensor) -> Tensor:
        y: Tensor = self.conv(torch.cat([skip, self.up(x)], dim=1))
        return y


class UNet(nn.Module):
    """Images (N, 3, H, W), H and W multiples of 2 ** depth, to logits (N, classes, H, W).

    `width` channels at full resolution, twice as many at every level below; 7.8 M parameters by default.
    """

    def __init__(self, classes: int = 4, width: int = 32, depth: int = 4) -> None:
        super().__init__()
        widths = [width << level for level in range(depth + 1)]
        self.stem = double_conv(3, width)
        self.pool = nn.MaxPool2d(2)
        self.down = nn.ModuleList(double_conv(channels, 2 * channels) for channels in widths[:-1])
        self.up = nn.ModuleList(Up(channels) for channels in reversed(widths[:-1]))
        self.head = nn.Conv2d(width, classes, 1)

    def forward(self, x: Tensor) -> Tensor:
        x = self.stem(x)
        skips: list[Tensor] = []
        for down in self.down:
            skips.append(x)
            x = down(self.pool(x))
        for up in self.up:
            x = up(x, skips.pop())
        logits: Tensor = self.head(x)
        return logits
