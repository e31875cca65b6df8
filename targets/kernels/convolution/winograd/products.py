"""The matrix products of a Winograd convolution: per plane (tiles x channels) x (channels x output channels).

All of it is `vpmaddwd` on s16 operands with sums modulo 2^32. Inputs and sums lie in the scratch memory, laid out as in
`winograd_plan.py`; weights as `expand_kernel` makes them.
"""

from __future__ import annotations

from math import ceil
from typing import Any

from fxquant.targets.kernels.convolution.winograd.plan import WinogradPlan
from fxquant.targets.kernels.words.tir import bits, load, prefetch, splat
from fxquant.targets.kernels.words.x86 import LINE_BYTES, Isa, dot_pairs
from fxquant.targets.tvm_api import I, T

# Pairs of input channels in one turn of the innermost loop. Its counters and prefetch are a fifth of the instructions
# otherwise, which costs little on a core of one's own, and a tenth where its other thread is at work too.
UNROLLED = 4


class Products:
    """The second step of the function that is being built."""

    def __init__(self, isa: Isa, plan: WinogradPlan, weights: Any, scratch: Any) -> None:
        """`weights` and `scratch` are the function's arguments of these names."""
        self.isa, self.plan, self.weights, self.scratch = isa, plan, weights, scratch

    def emit(self, group: Any) -> None:
        """The sums of one group of resident channel blocks."""
        plan = self.plan
        with I.serial(0, plan.planes) as plane, I.serial(0, plan.tile.resident) as resident:
            panel = I.Bind(((group * plan.planes + plane) * plan.tile.resident + resident) * plan.pairs)
            with I.serial(0, plan.padded // plan.tile.depth) as part:
                self._tiles(plane, resident, panel, part)

    def sum_at(self, plane: Any, tile: Any, channel: Any) -> Any:
        """Where the sum of one tile and resident channel is kept."""
        plan = self.plan
        return plan.first_sum + plane * plan.sum_plane + tile * (plan.tile.resident * plan.width) + channel

    def _tiles(self, plane: Any, resident: Any, panel: Any, part: Any) -> None:
        """depth tiles x one channel block, all input channels, from the scratch memory back into it."""
        plan, tile, lanes = self.plan, self.plan.tile, self.isa.lanes
        cells = [(i, j) for i in range(tile.depth) for j in range(tile.vectors)]
        with I.sblock("product"):
            I.reads()
            I.writes()
            acc = I.sblock_alloc_buffer((len(cells) * lanes,), "uint32", scope="local")
            lane = {cell: I.ramp(n * lanes, 1, lanes) for n, cell in enumerate(cells)}
            for cell in cells:
                I.buffer_store(acc, splat(0, "uint32", lanes), [lane[cell]])
            start = I.Bind(part * tile.depth)
            source = I.Bind(plane * plan.input_plane + start * plan.pair_step)
            unrolled = next(n for n in (UNROLLED, 2, 1) if plan.pairs % n == 0)
            turns = plan.pairs // unrolled
            lines = self._lines_per_part()
            if lines < turns:
                self._fetch_ahead(panel, part * lines, lines)
            with I.serial(0, turns) as turn:
                if lines >= turns:
                    each = ceil(lines / turns)
                    self._fetch_ahead(panel, (part * turns + turn) * each, each)
                for pair in (turn * unrolled + step for step in range(unrolled)):
                    at = (panel + pair) * (2 * plan.width)
                    held = [I.Bind(load(self.weights, at + j * 2 * lanes, 2 * lanes)) for j in range(tile.vectors)]
                    for i in range(tile.depth):
                        both = T.broadcast(self.scratch[source + i * plan.pair_step + pair], lanes)
                        inputs = I.Bind(bits(both, f"int16x{2 * lanes}"))
                        for j in range(tile.vectors):
                            I.buffer_store(acc, dot_pairs(self.isa, acc[lane[i, j]], inputs, held[j]), [lane[i, j]])
            for i, j in cells:
                where = I.ramp(self.sum_at(plane, start + i, resident * plan.width + j * lanes), 1, lanes)
                I.buffer_store(self.scratch, bits(acc[lane[i, j]], f"int32x{lanes}"), [where])

    def _lines_per_part(self) -> int:
        """Cache lines of the next panel of weights that are prefetched while one part of the tiles uses this one.

        Layers with few tiles use each weight a few times only: without this, sums wait for the third-level cache.
        """
        plan = self.plan
        return ceil(plan.pairs * plan.width * 4 / LINE_BYTES / (plan.padded // plan.tile.depth))

    def _fetch_ahead(self, panel: Any, first: Any, count: int) -> None:
        start = (panel + self.plan.pairs) * (2 * self.plan.width)
        for line in range(count):
            prefetch(self.weights, start + (first + line) * (LINE_BYTES // 2))
