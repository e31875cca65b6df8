"""Windows by tables: each block of channels has lists of windows of each kind, sorted by what its weights allow.

The constants `offsets` and `blocks` say where the windows are (`conv_pack.py`). Only where weights ask for s16 products
does a task first widen its part of the input into scratch memory.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.convolution.bytes.body import Body
from fxquant.targets.kernels.convolution.bytes.pack import DOUBLE, FIELDS, KINDS, NARROW, WIDE
from fxquant.targets.kernels.convolution.bytes.tile import Tile, doubles_per_turn, task_reach
from fxquant.targets.kernels.parts import wide
from fxquant.targets.kernels.parts.operand import QUADS
from fxquant.targets.kernels.words.tir import argument, bits, load
from fxquant.targets.kernels.words.x86 import Isa, broadcast_pair, dot_pairs
from fxquant.targets.tvm_api import I, T

ALIGNMENT = 64  # bytes: of the scratch memory


class Sorted(Body):
    """Any weights and geometry."""

    def __init__(self, problem: ConvProblem, isa: Isa, tile: Tile, pieces: tuple[int, int]) -> None:
        super().__init__(problem, isa, tile, pieces)
        self.offsets, self.blocks = self.constants["offsets"], self.constants["blocks"]
        self.turn, self.is_exact = doubles_per_turn(problem), self.operand.is_exact(isa)
        if not self.is_exact:
            self.scratch = -(-2 * task_reach(problem, tile, pieces[0]) // ALIGNMENT) * ALIGNMENT
            self.wide = argument("scratch", self.scratch // 2, "int16")

    def block(self, index: Any) -> list[Any]:
        """Where the block's weights and offsets of each kind start, and how many there are."""
        at = index * (len(KINDS) * FIELDS)
        return [I.Bind(self.blocks[at + i]) for i in range(len(KINDS) * FIELDS)]

    def begin(self, first: Any, last: Any, across: int) -> None:
        """Widen the bytes that this task reads to s16, if any of the layer's windows is wide."""
        self.base = I.Bind(self.origin(*self.place(first, across), start_of_row=True))
        if self.is_exact:
            return
        row, column = self.place(last - 1, across)
        size = I.Bind(self.origin(row, column, start_of_row=True) + self.span() - self.base)
        with I.If(self.blocks[self.block_count * len(KINDS) * FIELDS] != 0), I.Then(), I.serial(0, size) as i:
            I.buffer_store(self.wide, T.cast(self.x[self.base + i], "int16"), [i])

    def add(self, acc: Any, block: list[Any], origin: Any, number: Any) -> None:
        """All double windows, then the narrow and the wide ones."""
        if not self.is_exact:
            self._doubles(acc, block, number)
        self._windows(acc, 0, block, NARROW, self.narrow)
        self.drain(acc)
        if not self.is_exact:
            self._windows(acc, I.Bind(origin - self.base), block, WIDE, self._wide)

    def _doubles(self, acc: Any, fields: list[Any], number: Any) -> None:
        weight, offset, count = fields[DOUBLE * FIELDS : (DOUBLE + 1) * FIELDS]
        size = self.width * QUADS.taps * 2
        turns = I.Bind(T.floordiv(count, self.turn))
        with I.serial(0, turns) as index:
            self.fetch_ahead(weight + count * size, number * turns + index)
            for entry in (index * self.turn + step for step in range(self.turn)):
                at = [I.Bind(self.offsets[offset + entry * 2 + i]) for i in range(2)]
                self.double(acc, at, weight + entry * size)

    def _windows(self, acc: Any, origin: Any, fields: list[Any], kind: int, window: Callable[..., None]) -> None:
        weight, offset, count = fields[kind * FIELDS : (kind + 1) * FIELDS]
        size = self.width * self.operand.taps * (2 if kind == WIDE and not self.tile.compact else 1)
        with I.serial(0, count) as entry:
            window(acc, [I.Bind(origin + self.offsets[offset + entry])], weight + entry * size)
            if self.problem.drop:
                often = wide.turns(self.operand.taps)
                with I.If(T.bitwise_and(entry, often - 1) == often - 1), I.Then():
                    self.drain(acc)

    def _wide(self, acc: Any, at: list[Any], weight: Any) -> None:
        def summed(value: Any, xs: list[Any], pairs: list[Any]) -> Any:
            return dot_pairs(self.isa, value, xs[0], pairs[0])

        for half in range(2):

            def pairs_at(step: int, half: int = half) -> list[Any]:
                return [I.Bind(broadcast_pair(self.wide, at[0] + (step + 2 * half), self.isa.lanes))]

            def pairs(vector: int, half: int = half) -> list[Any]:
                return [self._pair_weights(weight, half, vector)]

            self.products(acc, pairs_at, pairs, summed)

    def _pair_weights(self, first: Any, half: int, vector: int) -> Any:
        """s16 weights of bytes 0-1 or 2-3 of a window, for one vector of channels."""
        lanes = self.isa.lanes
        pair = half * self.width + vector * lanes
        if self.tile.compact:
            return I.Bind(T.cast(load(self.weights, first + pair * 2, lanes * 2), f"int16x{lanes * 2}"))
        return I.Bind(bits(load(self.weights, first + pair * 4, lanes * 4), f"int16x{lanes * 2}"))
