"""Which convolutions fast kernels are for, by their shape alone: read by those who choose scales, and by the kernels.

Both must say the same. A layer whose weights are made coarser for a kernel that does not take it has lost precision for
nothing; one that keeps fine weights although its kernel wants room is slow.
"""

from __future__ import annotations

# Of Winograd's transform: taps along each axis.
WINOGRAD_TAPS = 3
# Of depthwise kernels that take four bytes at a time: rows of taps, and channels that are interleaved together.
QUAD_ROWS, QUAD_CHANNELS = 3, 32


def is_winograd(kernel: tuple[int, ...], stride: tuple[int, ...], groups: int) -> bool:
    """A dense 3x3 convolution of stride 1, whatever its dilation: a dilated one is several dense ones, its phases."""
    return kernel == (WINOGRAD_TAPS, WINOGRAD_TAPS) and set(stride) == {1} and groups == 1


def is_quads(inputs: int, outputs: int, groups: int, kernel: tuple[int, ...], dilation: tuple[int, ...]) -> bool:
    """Depthwise: one output for each of enough channels, and three neighbouring rows of taps."""
    depthwise = groups == inputs == outputs >= QUAD_CHANNELS
    return depthwise and len(kernel) == 2 and kernel[0] == QUAD_ROWS and dilation[0] == 1
