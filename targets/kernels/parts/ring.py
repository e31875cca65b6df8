"""Rows of the operand, with their padding, in a ring of scratch memory: each is copied once, when first needed.

    row r of the padded image   ->   slot r % span of the ring, `left` pads, the pixels, pads up to `width`

A window's taps of one kernel row then lie side by side, whatever the padding: `channels * kernel width` elements from
`pixel * stride * channels` on.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.tvm_api import I, tirx


@dataclass(frozen=True)
class Ring:
    """Sizes of the ring, in elements."""

    problem: ConvProblem

    @property
    def channels(self) -> int:
        """Input channels."""
        return self.problem.x.shape[0]

    @property
    def span(self) -> int:
        """Input rows that an output row sees."""
        return (self.problem.kernel[0] - 1) * self.problem.dilation[0] + 1

    @property
    def width(self) -> int:
        """Pixels of a padded row."""
        problem = self.problem
        return (problem.out.shape[2] - 1) * problem.stride[1] + (problem.kernel[1] - 1) * problem.dilation[1] + 1

    @property
    def inside(self) -> int:
        """Pixels of a row that come from the image."""
        return max(0, min(self.problem.x.shape[2], self.width - self.problem.padding[1]))

    @property
    def row(self) -> int:
        """Elements of a row."""
        return self.width * self.channels

    @property
    def size(self) -> int:
        """Elements of the ring."""
        return self.span * self.row

    @property
    def pixel(self) -> int:
        """Elements from one output pixel's first tap to the next one's."""
        return self.problem.stride[1] * self.channels

    def slot(self, row: Any, tap: Any) -> Any:
        """Where kernel row `tap` of output row `row` begins."""
        return ((row * self.problem.stride[0] + tap * self.problem.dilation[0]) % self.span) * self.row


def fill(
    ring: Ring, row: Any, begin: Any, pad: Callable[[Any, int], None], copy: Callable[[Any, Any, int], None]
) -> None:
    """Emit the filling of the ring with the rows that output row `row` is the first to need, `begin` being the first.

    `pad(at, count)` writes padding to the ring, `copy(at, source, count)` elements of the operand.
    """
    problem, step = ring.problem, ring.problem.stride[0]
    first: Any = 0 if step >= ring.span else tirx.Select(row == begin, 0, ring.span - step)
    with I.serial(first, ring.span) as ahead:
        line = I.Bind(row * step + ahead - problem.padding[0])
        at = I.Bind(((row * step + ahead) % ring.span) * ring.row)
        with I.If(tirx.all(line >= 0, line < problem.x.shape[1])):
            with I.Then():
                _line(ring, at, line * problem.x.strides[1], pad, copy)
            with I.Else():
                pad(at, ring.row)


def _line(
    ring: Ring, at: Any, source: Any, pad: Callable[[Any, int], None], copy: Callable[[Any, Any, int], None]
) -> None:
    left, across, channels = ring.problem.padding[1], ring.problem.x.strides[2], ring.channels
    right = ring.width - min(left, ring.width) - ring.inside
    if left:
        pad(at, min(left, ring.width) * channels)
    if across == channels or ring.inside == 1:
        copy(at + left * channels, source, ring.inside * channels)
    elif ring.inside:
        with I.serial(0, ring.inside) as x:
            copy(at + (left + x) * channels, source + x * across, channels)
    if right:
        pad(at + (left + ring.inside) * channels, right * channels)
