"""Windows in the order of memory, two by two within a kernel row: for weights that leave room for four products there.

Nothing is looked up then: where the windows are is part of the code, which takes a twentieth fewer instructions. The
recipe for this instruction set makes such weights (`fxquant.products`).

    weights   s8, per block of channels: double [n][2][channels][4], then single [m][channels][4]
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import groupby
from typing import Any

from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.convolution.bytes.body import Body
from fxquant.targets.kernels.convolution.bytes.tile import Tile
from fxquant.targets.kernels.convolution.bytes.windows import in_twos
from fxquant.targets.kernels.parts.operand import QUADS
from fxquant.targets.kernels.words.x86 import Isa
from fxquant.targets.tvm_api import I, T

UNROLLED = 4  # double windows that are written out rather than looped over
TURN = 2  # double windows in a turn of the loop


@dataclass(frozen=True)
class Run:
    """Double windows `step` bytes after one another, `count` of them, and that `rows` times, `pitch` bytes apart.

    `start` and `second` are the distances of the first one's two windows.
    """

    start: int
    second: int
    step: int
    count: int
    rows: int = 1
    pitch: int = 0


class Uniform(Body):
    """Convolutions without groups whose weights `is_uniform`."""

    def __init__(self, problem: ConvProblem, isa: Isa, tile: Tile, pieces: tuple[int, int]) -> None:
        super().__init__(problem, isa, tile, pieces)
        starts = self.covers[0].starts
        doubles, singles = in_twos(self.problem)
        self.runs = runs([(starts[a], starts[b]) for a, b in doubles])
        self.singles = [starts[index] for index in singles]
        self.doubles = len(doubles)
        self.block_bytes = len(starts) * self.width * QUADS.taps

    def block(self, index: Any) -> Any:
        """Where the block's weights start."""
        return I.Bind(index * self.block_bytes)

    def begin(self, first: Any, last: Any, across: int) -> None:
        """Nothing: the input is read as it lies."""

    def add(self, acc: Any, block: Any, origin: Any, number: Any) -> None:
        """All double windows, then those that are left over."""
        size = 2 * self.width * QUADS.taps
        # Adds 0, which LLVM cannot know: else it moves a short loop's weights out of the loop over tiles, to the stack.
        block = I.Bind(block + T.shift_right(number, 30))
        done = 0
        for run in self.runs:
            self._run(acc, run, block, done, number)
            done += run.rows * run.count
        for index, start in enumerate(self.singles):
            self.narrow(acc, [start], block + (done * size + index * self.width * QUADS.taps))

    def _run(self, acc: Any, run: Run, block: Any, done: int, number: Any) -> None:
        size = 2 * self.width * QUADS.taps
        looped = run.count // TURN * TURN if run.count > UNROLLED else 0

        def window(row: Any, index: Any) -> None:
            at = [first + (row * run.pitch + index * run.step) for first in (run.start, run.second)]
            self.double(acc, at, block + (done + row * run.count + index) * size)

        def whole(row: Any) -> None:
            if looped:
                with I.serial(0, looped // TURN) as turn:
                    self._fetch(block, number, (done + row * run.count) // TURN + turn)
                    for step in range(TURN):
                        window(row, turn * TURN + step)
            for index in range(looped, run.count):
                window(row, index)

        if run.rows == 1:
            whole(0)
        else:
            with I.serial(0, run.rows) as row:
                whole(row)

    def _fetch(self, block: Any, number: Any, line: Any) -> None:
        self.fetch_ahead(block + self.block_bytes, number * (self.doubles // TURN) + line)


def runs(starts: Sequence[tuple[int, int]]) -> list[Run]:
    """The same windows in the same order, as few runs."""
    found: list[Run] = []
    for start, second in starts:
        last = found[-1] if found else None
        step = start - (last.start + last.step * (last.count - 1)) if last else 0
        if last and second - start == last.second - last.start and (last.count == 1 or step == last.step):
            found[-1] = Run(last.start, last.second, step, last.count + 1)
        else:
            found.append(Run(start, second, 0, 1))
    return [run for _, same in groupby(found, lambda run: (run.step, run.count, run.second - run.start))
            for run in _rows(list(same))]  # fmt: skip


def _rows(same: list[Run]) -> Iterator[Run]:
    """Runs of one form, joined where they are equally far apart."""
    while same:
        pitch = same[1].start - same[0].start if len(same) > 1 else 0
        rows = 1
        while rows < len(same) and same[rows].start - same[rows - 1].start == pitch:
            rows += 1
        first = same[0]
        yield Run(first.start, first.second, first.step, first.count, rows, pitch if rows > 1 else 0)
        same = same[rows:]
