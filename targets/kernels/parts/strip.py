"""What one output row sees of the operand, in scratch memory: column by column, each with all its kernel rows.

    strip   [padded column][kernel row][channel]

A window's taps then lie side by side from `pixel * stride` columns on, in the order kernel column, kernel row, channel:
the sum of a window is one run of products, whatever the kernel's size and however few the channels. Kernel rows are
copied anew for every output row, which is little beside what is computed with them.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Protocol

from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.tvm_api import I, tirx

# Elements of a contiguous line that are copied at a time.
PIECE = 16


@dataclass(frozen=True)
class Strip:
    """Sizes of the strip, in elements unless said otherwise."""

    problem: ConvProblem

    @property
    def channels(self) -> int:
        """Input channels of a group."""
        return self.problem.depth

    @property
    def column(self) -> int:
        """One column."""
        return self.problem.kernel[0] * self.channels

    @property
    def width(self) -> int:
        """Columns, with those of the padding; a pointwise convolution keeps only what it reads."""
        problem = self.problem
        return (problem.out.shape[2] - 1) * (problem.stride[1] // self.step) + problem.kernel[1]

    @property
    def step(self) -> int:
        """Columns of the image from one of the strip to the next."""
        return self.problem.stride[1] if self.problem.is_pointwise else 1

    @property
    def left(self) -> int:
        """Columns before the image."""
        return min(self.problem.padding[1], self.width)

    @property
    def inside(self) -> int:
        """Columns that come from the image."""
        within = -(-self.problem.x.shape[2] // self.step)
        return max(0, min(within, self.width - self.left))

    @property
    def is_contiguous(self) -> bool:
        """Whether a line of the image lies in the strip as it does in memory."""
        return self.column == self.problem.x.strides[2] * self.step == self.channels

    @property
    def size(self) -> int:
        """All columns."""
        return self.width * self.column

    @property
    def window(self) -> int:
        """The taps of one output."""
        return self.problem.kernel[1] * self.column

    @property
    def pixel(self) -> int:
        """From one output pixel's first tap to the next one's."""
        return self.problem.stride[1] // self.step * self.column


class Filler(Protocol):
    """Who fills a strip; places count elements of the strip (`at`) and of the operand (`source`)."""

    # Counts of the loops: "columns" that come from the image, and pieces of a contiguous line, its "run".
    loops: dict[str, Any]

    def pad(self, at: Any, count: int) -> None:
        """Write padding."""

    def copy(self, at: Any, source: Any, count: int) -> None:
        """Copy elements of the operand."""


def edges(strip: Strip, filler: Filler) -> None:
    """Emit the padding of the columns beside the image, which stays for all rows."""
    right = strip.left + strip.inside
    for first, last in ((0, strip.left), (right, strip.width)):
        if last > first:
            filler.pad(first * strip.column, (last - first) * strip.column)


def fill(strip: Strip, row: Any, first: Any, filler: Filler) -> None:
    """Emit the filling of the strip for output row `row` with the channels of a group, from `first` on."""
    problem = strip.problem
    if not strip.inside:
        return
    if problem.is_pointwise:
        _line(strip, row * problem.stride[0], first, 0, filler)
        return
    with I.serial(0, problem.kernel[0]) as tap:
        line = I.Bind(row * problem.stride[0] + tap * problem.dilation[0] - problem.padding[0])
        start = I.Bind(strip.left * strip.column + tap * strip.channels)
        with I.If(tirx.all(line >= 0, line < problem.x.shape[1])):
            with I.Then():
                _line(strip, line, first, start, filler)
            with I.Else(), I.serial(0, filler.loops["columns"]) as x:
                filler.pad(start + x * strip.column, strip.channels)


def _line(strip: Strip, line: Any, first: Any, start: Any, filler: Filler) -> None:
    """One line of the image, its channels from `first` on, into the strip, from `start` on."""
    x = strip.problem.x
    across, source = x.strides[2] * strip.step, I.Bind(line * x.strides[1] + first)
    if not strip.is_contiguous:
        with I.serial(0, filler.loops["columns"]) as column:
            filler.copy(start + column * strip.column, source + column * across, strip.channels)
        return
    count = strip.inside * strip.channels
    with I.serial(0, filler.loops["run"]) as piece:
        filler.copy(start + piece * PIECE, source + piece * PIECE, PIECE)
    if count % PIECE:
        rest = count - count % PIECE
        filler.copy(start + rest, source + rest, count % PIECE)
