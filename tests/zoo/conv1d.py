"""A 1-d net for signals such as an electrocardiogram: strided stem, pooling, causal dilated gates as in WaveNet.

The gates (van den Oord et al. 2016, arXiv:1609.03499) multiply a tanh with a sigmoid; the causal padding is on the left
only. The tail is depthwise and separable, with average pooling.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import pad


class GatedBlock(nn.Module):
    """Causal dilated convolution, gate, 1x1 projection and shortcut: shape (N, channels, L) is kept."""

    def __init__(self, channels: int, dilation: int) -> None:
        super().__init__()
        self.reach = 2 * dilation
        self.conv = nn.Conv1d(channels, 2 * channels, 3, dilation=dilation)
        self.norm = nn.BatchNorm1d(2 * channels)
        self.project = nn.Conv1d(channels, channels, 1)

    def forward(self, x: Tensor) -> Tensor:
        signal, gate = self.norm(self.conv(pad(x, (self.reach, 0)))).chunk(2, dim=1)
        y: Tensor = self.project(torch.tanh(signal) * torch.sigmoid(gate))
        return x + y


class ConvNet1d(nn.Module):
    """Signals (N, 1, L), L a multiple of 32, to logits (N, classes)."""

    def __init__(self, classes: int = 5, width: int = 48, dilations: tuple[int, ...] = (1, 2, 4, 8)) -> None:
        super().__init__()
        self.stem = nn.Sequential(
            nn.Conv1d(1, width, 15, 2, 7, bias=False), nn.BatchNorm1d(width), nn.ReLU(), nn.MaxPool1d(3, 2, 1)
        )
        self.blocks = nn.Sequential(*(GatedBlock(width, dilation) for dilation in dilations))
        self.tail = nn.Sequential(
            nn.Conv1d(width, width, 5, 2, 2, groups=width, bias=False),
            nn.BatchNorm1d(width),
            nn.LeakyReLU(0.1),
            nn.AvgPool1d(4),
            nn.Conv1d(width, 2 * width, 1),
            nn.ELU(),
            nn.AdaptiveAvgPool1d(1),
        )
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.tail(self.blocks(self.stem(x)))
        logits: Tensor = self.fc(x.flatten(1))
        return logits
