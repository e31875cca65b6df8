"""A segmentation net like DeepLabV3+ (Chen et al. 2018, arXiv:1802.02611) on a dilated ResNet-18 of half width.

Dilated and separable convolutions, an image-level branch that is pooled to 1x1 and stretched again, three bilinear
upsamplings of other factors. At small resolutions the dilation reaches far beyond the map: most taps see padding only.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn.functional import interpolate

from tests.zoo.blocks import ConvBn
from tests.zoo.resnet import BasicBlock, stage


def separable(inputs: int, outputs: int, dilation: int = 1) -> nn.Sequential:
    """Depthwise 3x3, then 1x1."""
    return nn.Sequential(ConvBn(inputs, inputs, 3, groups=inputs, dilation=dilation), ConvBn(inputs, outputs, 1))


class Backbone(nn.Module):
    """Images (N, 3, H, W) to low-level features (N, 32, H / 4, W / 4) and deep ones (N, 256, H / 16, W / 16)."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Sequential(ConvBn(3, 32, 3, 2), nn.MaxPool2d(3, 2, 1))
        self.layer1 = stage(BasicBlock, 32, 32, 2, 1)
        self.layer2 = stage(BasicBlock, 32, 64, 2, 2)
        self.layer3 = stage(BasicBlock, 64, 128, 2, 2)
        self.layer4 = stage(BasicBlock, 128, 256, 2, 1, dilation=2)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        low: Tensor = self.layer1(self.stem(x))
        deep: Tensor = self.layer4(self.layer3(self.layer2(low)))
        return low, deep


class Aspp(nn.Module):
    """Atrous spatial pyramid pooling, one map at several dilations: (N, inputs, H, W) -> (N, outputs, H, W)."""

    def __init__(self, inputs: int, outputs: int, rates: tuple[int, ...]) -> None:
        super().__init__()
        first: list[nn.Module] = [ConvBn(inputs, outputs, 1), ConvBn(inputs, outputs, 3, dilation=rates[0])]
        self.branches = nn.ModuleList([*first, *(separable(inputs, outputs, rate) for rate in rates[1:])])
        self.pool = nn.Sequential(nn.AdaptiveAvgPool2d(1), ConvBn(inputs, outputs, 1))
        self.project = nn.Sequential(ConvBn(outputs * (len(rates) + 2), outputs, 1), nn.Dropout(0.5))

    def forward(self, x: Tensor) -> Tensor:
        parts: list[Tensor] = [branch(x) for branch in self.branches]
        parts.append(interpolate(self.pool(x), size=x.shape[-2:], mode="bilinear", align_corners=False))
        y: Tensor = self.project(torch.cat(parts, dim=1))
        return y


class DeepLab(nn.Module):
    """Images (N, 3, H, W), H and W multiples of 16, to logits (N, classes, H, W)."""

    def __init__(self, classes: int = 21, rates: tuple[int, ...] = (6, 12, 18)) -> None:
        super().__init__()
        self.backbone = Backbone()
        self.aspp = Aspp(256, 128, rates)
        self.reduce = ConvBn(32, 24, 1)
        self.decoder = nn.Sequential(separable(128 + 24, 128), nn.Conv2d(128, classes, 1))

    def forward(self, x: Tensor) -> Tensor:
        low, deep = self.backbone(x)
        deep = interpolate(self.aspp(deep), size=low.shape[-2:], mode="bilinear", align_corners=False)
        y: Tensor = self.decoder(torch.cat([self.reduce(low), deep], dim=1))
        return interpolate(y, size=x.shape[-2:], mode="bilinear", align_corners=False)
