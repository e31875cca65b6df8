"""MobileNetV3-small (Howard et al. 2019, arXiv:1905.02244): hardswish and squeeze-and-excitation."""

from __future__ import annotations

from torch import Tensor, nn

from tests.zoo.blocks import Activation, ConvBn, round_channels

EPS = 1e-3

# Kernel, expanded channels, output channels, squeeze-and-excitation, activation, stride: table 2 of the paper.
STAGES: tuple[tuple[int, int, int, bool, Activation, int], ...] = (
    (3, 16, 16, True, nn.ReLU, 2),
    (3, 72, 24, False, nn.ReLU, 2),
    (3, 88, 24, False, nn.ReLU, 1),
    (5, 96, 40, True, nn.Hardswish, 2),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 240, 40, True, nn.Hardswish, 1),
    (5, 120, 48, True, nn.Hardswish, 1),
    (5, 144, 48, True, nn.Hardswish, 1),
    (5, 288, 96, True, nn.Hardswish, 2),
    (5, 576, 96, True, nn.Hardswish, 1),
    (5, 576, 96, True, nn.Hardswish, 1),
)


class SqueezeExcite(nn.Module):
    """Scales every channel by a gate in [0, 1] computed from all their means: shape (N, channels, H, W) is kept."""

    def __init__(self, channels: int, squeezed: int) -> None:
        super().__init__()
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc1 = nn.Conv2d(channels, squeezed, 1)
        self.fc2 = nn.Conv2d(squeezed, channels, 1)
        self.activation = nn.ReLU()
        self.gate = nn.Hardsigmoid()

    def forward(self, x: Tensor) -> Tensor:
        scale: Tensor = self.gate(self.fc2(self.activation(self.fc1(self.avgpool(x)))))
        return scale * x


class InvertedResidual(nn.Module):
    """Expand, depthwise, squeeze-and-excite, project: (N, inputs, H, W) -> (N, outputs, H / stride, W / stride)."""

    def __init__(
        self, inputs: int, kernel: int, hidden: int, outputs: int, squeeze: bool, activation: Activation, stride: int
    ) -> None:
        super().__init__()
        layers: list[nn.Module] = []
        if hidden != inputs:
            layers.append(ConvBn(inputs, hidden, 1, activation=activation, eps=EPS))
        layers.append(ConvBn(hidden, hidden, kernel, stride, groups=hidden, activation=activation, eps=EPS))
        if squeeze:
            layers.append(SqueezeExcite(hidden, round_channels(hidden / 4)))
        layers.append(ConvBn(hidden, outputs, 1, activation=None, eps=EPS))
        self.block = nn.Sequential(*layers)
        self.residual = stride == 1 and inputs == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.block(x)
        if self.residual:
            y += x
        return y


class MobileNetV3Small(nn.Module):
    """Images (N, 3, H, W) to logits (N, classes): 2,542,856 parameters, 0.06 GMAC at 224x224."""

    def __init__(self, classes: int = 1000) -> None:
        super().__init__()
        layers: list[nn.Module] = [ConvBn(3, 16, 3, 2, activation=nn.Hardswish, eps=EPS)]
        channels = 16
        for kernel, hidden, outputs, squeeze, activation, stride in STAGES:
            layers.append(InvertedResidual(channels, kernel, hidden, outputs, squeeze, activation, stride))
            channels = outputs
        layers.append(ConvBn(channels, 6 * channels, 1, activation=nn.Hardswish, eps=EPS))
        self.features = nn.Sequential(*layers)
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.classifier = nn.Sequential(
            nn.Linear(6 * channels, 1024), nn.Hardswish(inplace=True), nn.Dropout(0.2), nn.Linear(1024, classes)
        )

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.classifier(self.avgpool(self.features(x)).flatten(1))
        return logits
