"""The template of a strip kernel: its weights in the order of the loops, and its constants."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from fxquant.targets.kernels.contract.epilogue import Numbers
from fxquant.targets.kernels.contract.kernel import Choice, Declined, Kernel
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.contract.template import Template
from fxquant.targets.kernels.convolution.strip.body import ConvBody
from fxquant.targets.kernels.convolution.strip.tile import Tile
from fxquant.targets.kernels.epilogue import rounding
from fxquant.targets.kernels.parts.chunks import chunked
from fxquant.targets.kernels.parts.overlap import lead
from fxquant.targets.kernels.parts.params import pack
from fxquant.targets.kernels.words.tir import prim_func


class Strips(Template):
    """Convolutions by a `ConvBody`, which is an instruction set."""

    TILE = Tile

    def __init__(self, body: type[ConvBody]) -> None:
        self.body, self.NAME = body, body.NAME

    def declines(self, problem: ConvProblem, layer: Layer) -> Declined | None:
        """What the body does not compute, or not with these weights."""
        reason = self.body.declines(problem)
        if reason is None and (overflow := self.body.overflows(self.body.runs(chunked(problem), layer.weight))):
            reason = Declined(self.NAME, overflow)
        if reason is None and (shift := self.body.enlarged(problem)):
            least, greatest = layer.bounds(problem.x)
            if max(int(greatest.max()), -int(least.min())) << shift >= 1 << 31:
                reason = Declined(self.NAME, f"sums times {1 << shift} do not fit 32 bits")
        return reason

    def tiles(self, problem: ConvProblem, layer: Layer) -> Sequence[Tile]:
        """The body's."""
        return self.body.tiles(chunked(problem))

    def choice(self, problem: ConvProblem, layer: Layer, numbers: Numbers, tile: Tile) -> Choice:
        """The kernel, which takes a pointwise convolution by rows of pixels that it likes."""
        shaped, body = chunked(problem), self.body
        packed = {**pack(body.params(shaped, tile), layer), **rounding.constants(shaped, numbers)}
        build = partial(kernel, body, shaped, tile)
        if shaped.pieces > 1:  # which run in any order
            return Choice(self.NAME, tile, build, packed, in_place=False)
        in_place = shaped.out.shape[2] % tile.pixels == 0
        return Choice(self.NAME, tile, build, packed, in_place=in_place, lead=_lead(body, shaped))


def _lead(body: type[ConvBody], problem: ConvProblem) -> int | None:
    """See `Choice`: the strip holds all that a row of pixels reads."""
    if not problem.is_pointwise or body.is_direct(problem) or problem.groups > 1:
        return None
    return lead(problem, lambda row: (row + 1) * problem.stride[0])


def kernel(body: type[ConvBody], problem: ConvProblem, tile: Tile) -> Kernel:
    """A task is some rows, or channels where there are few rows; who asks for one piece gets the whole layer."""
    with prim_func("conv") as finish:
        tasks = body(problem, tile).emit()
    return Kernel(finish(), tasks, body.room(problem, tile) * np.dtype(body.ELEMENT).itemsize)
