"""A convolution as dot products of windows: the problem, and which elements a block of output channels reads.

Every geometry (kernel size, stride, dilation, groups, 1-d, linear) is one thing here: an output pixel is a dot product
of elements found at fixed distances from its first one. Those distances are covered by windows of consecutive
elements, four bytes long: so many taps as the operand has (see `parts/operand.py`). A kernel walks over the windows of
a block and never knows the geometry.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache

from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.parts.operand import window_of


@dataclass(frozen=True)
class Windows:
    """Windows of one channel block: distance of each from the pixel's first element, and what its `taps` are.

    `slots` has an entry for each tap of each window: a flat index into (channels read, kernel height, kernel width), or
    -1 for an element that belongs to another window or to nothing.
    """

    taps: int
    first_channel: int
    channels: int
    starts: tuple[int, ...]
    slots: tuple[int, ...]


def windows(problem: ConvProblem, first: int, count: int) -> Windows:
    """The windows of output channels first ... first + count - 1, which may lie in several groups."""
    per_group_out = problem.out.shape[0] // problem.groups
    per_group_in = problem.x.shape[0] // problem.groups
    low = first // per_group_out * per_group_in
    high = ((first + count - 1) // per_group_out + 1) * per_group_in
    return _windows(window_of(problem.x).taps, problem.x.strides, problem.kernel, problem.dilation, low, high)


def in_twos(problem: ConvProblem) -> tuple[list[tuple[int, int]], list[int]]:
    """Windows of a convolution without groups: those that follow each other in a kernel row, two by two, and the rest.

    These are the windows whose products `fxquant.products` makes room for.
    """
    cover = windows(problem, 0, problem.out.shape[0])
    rows: dict[int, list[int]] = {}
    for index in range(len(cover.starts)):
        slot = max(cover.slots[index * cover.taps : (index + 1) * cover.taps])
        rows.setdefault(slot // problem.kernel[1] % problem.kernel[0], []).append(index)
    doubles = [pair for row in rows.values() for pair in zip(row[::2], row[1::2], strict=False)]
    return doubles, [row[-1] for row in rows.values() if len(row) % 2]


@lru_cache(maxsize=1024)
def _windows(
    taps: int, strides: tuple[int, ...], kernel: tuple[int, int], dilation: tuple[int, int], low: int, high: int
) -> Windows:
    """The windows over input channels low ... high - 1."""
    wanted: dict[int, int] = {}
    for y in range(kernel[0]):
        for x in range(kernel[1]):
            tap = y * dilation[0] * strides[1] + x * dilation[1] * strides[2]
            for channel in range(low, high):
                wanted[tap + channel] = ((channel - low) * kernel[0] + y) * kernel[1] + x
    if len(wanted) != (high - low) * kernel[0] * kernel[1]:
        raise ValueError(f"conv: two taps read one element of x; strides {strides} must not fold it on itself")
    starts, slots = _cover(wanted, taps)
    return Windows(taps, low, high - low, tuple(starts), tuple(slots))


def _cover(wanted: dict[int, int], taps: int) -> tuple[list[int], list[int]]:
    """Cover distances with the fewest windows of `taps`; the last one never reaches further than it must."""
    starts: list[int] = []
    slots: list[int] = []
    order = sorted(wanted)
    covered = -1
    for distance in order:
        if distance <= covered:
            continue
        start = max(order[0], min(distance, order[-1] + 1 - taps))
        starts.append(start)
        slots += [wanted.get(place, -1) if place > covered else -1 for place in range(start, start + taps)]
        covered = start + taps - 1
    return starts, slots
