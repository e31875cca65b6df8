"""MobileNetV2 (Sandler et al. 2018, arXiv:1801.04381): depthwise convolutions, ReLU6 and linear bottlenecks."""

from __future__ import annotations

from torch import Tensor, nn

from tests.zoo.blocks import ConvBn

# Expansion, output channels, repeats, stride of the first repeat: table 2 of the paper.
STAGES = (
    (1, 16, 1, 1),
    (6, 24, 2, 2),
    (6, 32, 3, 2),
    (6, 64, 4, 2),
    (6, 96, 3, 1),
    (6, 160, 3, 2),
    (6, 320, 1, 1),
)


def relu6() -> nn.Module:
    """ReLU6 in place, as the published networks have it."""
    return nn.ReLU6(inplace=True)


class InvertedResidual(nn.Module):
    """Expand, depthwise 3x3, project without activation: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""

    def __init__(self, inputs: int, outputs: int, stride: int, expansion: int) -> None:
        super().__init__()
        hidden = inputs * expansion
        layers: list[nn.Module] = []
        if expansion != 1:
            layers.append(ConvBn(inputs, hidden, 1, activation=relu6))
        layers.append(ConvBn(hidden, hidden, 3, stride, groups=hidden, activation=relu6))
        layers.append(ConvBn(hidden, outputs, 1, activation=None))
        self.conv = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class MobileNetV2(nn.Module):
    """Images (N, 3, H, W) to logits (N, classes): 3,504,872 parameters, 0.3 GMAC at 224x224."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvBn(3, 32, 3, 2, activation=relu6)]
        channels = 32
        for expansion, outputs, repeats, stride in STAGES:
            for index in range(repeats):
                layers.append(InvertedResidual(channels, outputs, stride if index == 0 else 1, expansion))
                channels = outputs
        layers.append(ConvBn(channels, 1280, 1, activation=relu6))
        self.features = nn.Sequential(*layers)
        self.classifier = nn.Sequential(nn.Dropout(0.2), nn.Linear(1280, classes))

    def forward(self, x: Tensor) -> Tensor:
        x = nn.functional.adaptive_avg_pool2d(self.features(x), (1, 1))
        logits: Tensor = self.classifier(x.flatten(1))
        return logits
