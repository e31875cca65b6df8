"""The two blocks that most convolutional networks of the zoo are made of."""

from __future__ import annotations

from collections.abc import Callable

from torch import nn

Activation = Callable[[], nn.Module]


class ConvBn(nn.Sequential):
    """Convolution, batch norm and, unless it is None, an activation: (N, inputs, H, W) -> (N, outputs, H', W').

    Without `padding` an odd kernel keeps the resolution (divided by the stride), dilated or not.
    """

    def __init__(
        self,
        inputs: int,
        outputs: int,
        kernel: int | tuple[int, int] = 3,
        stride: int | tuple[int, int] = 1,
        *,
        padding: int | None = None,
        groups: int = 1,
        dilation: int = 1,
        bias: bool = False,
        activation: Activation | None = nn.ReLU,
        eps: float = 1e-5,
    ) -> None:
        side = kernel if isinstance(kernel, int) else kernel[0]
        border = dilation * (side // 2) if padding is None else padding
        layers: list[nn.Module] = [
            nn.Conv2d(inputs, outputs, kernel, stride, border, dilation=dilation, groups=groups, bias=bias),
            nn.BatchNorm2d(outputs, eps=eps),
        ]
        if activation is not None:
            layers.append(activation())
        super().__init__(*layers)


def round_channels(channels: float, divisor: int = 8) -> int:
    """The nearest multiple of `divisor` that is not more than a tenth below `channels` (the MobileNets' rule)."""
    rounded = max(divisor, int(channels + divisor / 2) // divisor * divisor)
    return rounded + divisor if rounded < 0.9 * channels else rounded
