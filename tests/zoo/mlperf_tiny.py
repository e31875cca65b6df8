"""The four networks of MLPerf Tiny (Banbury et al. 2021, arXiv:2106.07597), up to their logits (no final softmax).

The originals are Keras models, and keep two of its habits here: a bias before every batch norm, and "same" padding,
which at stride 2 has one row and column more at the end than at the start.
"""

from __future__ import annotations

from torch import Tensor, nn

from tests.zoo.blocks import ConvBn

# Left, right, top, bottom: "same" for a 3x3 kernel at stride 2 on an even size.
SAME_STRIDE_2 = (0, 1, 0, 1)


def same_conv(inputs: int, outputs: int, stride: int, groups: int = 1, *, relu: bool = True) -> nn.Sequential:
    """3x3 convolution with bias and batch norm, padded as Keras pads an even size."""
    activation = nn.ReLU if relu else None
    if stride == 1:
        return ConvBn(inputs, outputs, 3, groups=groups, bias=True, activation=activation)
    conv = ConvBn(inputs, outputs, 3, stride, padding=0, groups=groups, bias=True, activation=activation)
    return nn.Sequential(nn.ZeroPad2d(SAME_STRIDE_2), conv)


def separable(inputs: int, outputs: int, stride: int = 1) -> nn.Sequential:
    """Depthwise 3x3, then 1x1, each with batch norm and ReLU."""
    return nn.Sequential(same_conv(inputs, inputs, stride, groups=inputs), ConvBn(inputs, outputs, 1, bias=True))


class DsCnn(nn.Module):
    """Keyword spotting: MFCC windows (N, 1, 49, 10) to logits (N, 12); 24,908 parameters with running statistics."""

    def __init__(self, classes: int = 12) -> None:
        super().__init__()
        self.pad = nn.ZeroPad2d((1, 1, 4, 5))
        self.stem = nn.Sequential(ConvBn(1, 64, (10, 4), 2, padding=0, bias=True), nn.Dropout(0.2))
        self.blocks = nn.Sequential(*(separable(64, 64) for _ in range(4)), nn.Dropout(0.4))
        self.pool = nn.AvgPool2d((25, 5))
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.pool(self.blocks(self.stem(self.pad(x))))
        logits: Tensor = self.fc(x.flatten(1))
        return logits


class MobileNetV1(nn.Module):
    """Visual wake words: images (N, 3, 96, 96) to logits (N, 2); 221,794 parameters with running statistics."""

    def __init__(self, classes: int = 2) -> None:
        super().__init__()
        layers: list[nn.Module] = [same_conv(3, 8, 2)]
        channels = 8
        strided = ((16, 1), (32, 2), (32, 1), (64, 2), (64, 1), (128, 2), *[(128, 1)] * 5, (256, 2), (256, 1))
        for outputs, stride in strided:
            layers.append(separable(channels, outputs, stride))
            channels = outputs
        self.features = nn.Sequential(*layers)
        self.pool = nn.AvgPool2d(3)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(self.features(x)).flatten(1))
        return logits


class Residual(nn.Module):
    """Two 3x3 convolutions and a shortcut, whose 1x1 projection has no batch norm."""

    def __init__(self, inputs: int, outputs: int, stride: int) -> None:
        super().__init__()
        self.body = nn.Sequential(same_conv(inputs, outputs, stride), same_conv(outputs, outputs, 1, relu=False))
        self.shortcut = nn.Identity() if stride == 1 else nn.Conv2d(inputs, outputs, 1, stride)

    def forward(self, x: Tensor) -> Tensor:
        return nn.functional.relu(self.shortcut(x) + self.body(x))


class ResNet8(nn.Module):
    """Image classification: (N, 3, 32, 32) to logits (N, 10); 78,666 parameters with running statistics."""

    def __init__(self, classes: int = 10) -> None:
        super().__init__()
        self.stem = same_conv(3, 16, 1)
        self.blocks = nn.Sequential(Residual(16, 16, 1), Residual(16, 32, 2), Residual(32, 64, 2))
        self.pool = nn.AvgPool2d(8)
        self.fc = nn.Linear(64, classes)

    def forward(self, x: Tensor) -> Tensor:
        logits: Tensor = self.fc(self.pool(self.blocks(self.stem(x))).flatten(1))
        return logits


class Autoencoder(nn.Sequential):
    """Anomaly detection: log-mel windows (N, 640) to themselves; 269,992 parameters with running statistics."""

    def __init__(self, width: int = 640, hidden: tuple[int, ...] = (128, 128, 128, 128, 8, 128, 128, 128, 128)) -> None:
        layers: list[nn.Module] = []
        inputs = width
        for outputs in hidden:
            layers += [nn.Linear(inputs, outputs), nn.BatchNorm1d(outputs), nn.ReLU()]
            inputs = outputs
        super().__init__(*layers, nn.Linear(inputs, width))
