"""ResNet-18 and ResNet-50 (He et al. 2016, arXiv:1512.03385), with the stride on the 3x3 convolution ("v1.5").

One ReLU module, in place, is shared by all the sites of a block, as in most code in the wild: a tracer that keys
anything on modules instead of call sites fails here.
"""

from __future__ import annotations

from torch import Tensor, nn

from tests.zoo.blocks import ConvBn


class BasicBlock(nn.Module):
    """Two 3x3 convolutions and a shortcut: (N, inputs, H, W) -> (N, width, H / stride, W / stride)."""

    expansion = 1

    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inputs, width, 3, stride, dilation, dilation, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, 1, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs, width, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity: Tensor = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(self.bn1(self.conv1(x)))
        y = self.bn2(self.conv2(y))
        y += identity
        out: Tensor = self.relu(y)
        return out


class Bottleneck(nn.Module):
    """1x1 reduce, 3x3, 1x1 expand and a shortcut: (N, inputs, H, W) -> (N, 4 * width, H / stride, W / stride)."""

    expansion = 4

    def __init__(self, inputs: int, width: int, stride: int = 1, dilation: int = 1) -> None:
        super().__init__()
        outputs = width * self.expansion
        self.conv1 = nn.Conv2d(inputs, width, 1, bias=False)
        self.bn1 = nn.BatchNorm2d(width)
        self.conv2 = nn.Conv2d(width, width, 3, stride, dilation, dilation, bias=False)
        self.bn2 = nn.BatchNorm2d(width)
        self.conv3 = nn.Conv2d(width, outputs, 1, bias=False)
        self.bn3 = nn.BatchNorm2d(outputs)
        self.relu = nn.ReLU(inplace=True)
        self.downsample = shortcut(inputs, outputs, stride)

    def forward(self, x: Tensor) -> Tensor:
        identity: Tensor = x if self.downsample is None else self.downsample(x)
        y: Tensor = self.relu(self.bn1(self.conv1(x)))
        y = self.relu(self.bn2(self.conv2(y)))
        y = self.bn3(self.conv3(y))
        y += identity
        out: Tensor = self.relu(y)
        return out


def shortcut(inputs: int, outputs: int, stride: int) -> nn.Module | None:
    """A 1x1 projection where a block changes shape; None where its input is added as it is."""
    if inputs == outputs and stride == 1:
        return None
    return ConvBn(inputs, outputs, 1, stride, activation=None)


class ResNet(nn.Module):
    """Images (N, 3, H, W) to logits (N, classes); `depths` are the blocks of the four stages."""

    def __init__(
        self, block: type[BasicBlock] | type[Bottleneck], depths: tuple[int, int, int, int], classes: int = 1000
    ) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(3, 64, 7, 2, 3, bias=False)
        self.bn1 = nn.BatchNorm2d(64)
        self.relu = nn.ReLU(inplace=True)
        self.maxpool = nn.MaxPool2d(3, 2, 1)
        channels = 64
        stages: list[nn.Module] = []
        for index, depth in enumerate(depths):
            stages.append(stage(block, channels, 64 << index, depth, 1 if index == 0 else 2))
            channels = (64 << index) * block.expansion
        self.layer1, self.layer2, self.layer3, self.layer4 = stages
        self.avgpool = nn.AdaptiveAvgPool2d(1)
        self.fc = nn.Linear(channels, classes)

    def forward(self, x: Tensor) -> Tensor:
        x = self.maxpool(self.relu(self.bn1(self.conv1(x))))
        x = self.layer4(self.layer3(self.layer2(self.layer1(x))))
        logits: Tensor = self.fc(self.avgpool(x).flatten(1))
        return logits


def stage(
    block: type[BasicBlock] | type[Bottleneck], inputs: int, width: int, depth: int, stride: int, dilation: int = 1
) -> nn.Sequential:
    """`depth` blocks of `width`, the first of which takes the stride and the change of channels."""
    first = block(inputs, width, stride, dilation)
    return nn.Sequential(first, *(block(width * block.expansion, width, 1, dilation) for _ in range(depth - 1)))


def resnet18() -> ResNet:
    """ResNet-18: 11,689,512 parameters, 1.8 GMAC at 224x224."""
    return ResNet(BasicBlock, (2, 2, 2, 2))


def resnet50() -> ResNet:
    """ResNet-50: 25,557,032 parameters, 4.1 GMAC at 224x224."""
    return ResNet(Bottleneck, (3, 4, 6, 3))
