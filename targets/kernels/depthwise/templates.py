"""The templates of the x86 depthwise kernels: rivals, of which quads are faster wherever they are exact."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from fxquant.targets.kernels.contract.epilogue import Numbers
from fxquant.targets.kernels.contract.kernel import Choice, Declined
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.contract.template import Template
from fxquant.targets.kernels.convolution.bytes.template import bordered
from fxquant.targets.kernels.depthwise.pairs import (
    DepthwiseTile,
    depthwise_kernel,
    is_depthwise,
    pack_depthwise,
    ranked_depthwise_tiles,
)
from fxquant.targets.kernels.depthwise.quads import (
    HEIGHT,
    QuadTile,
    depthwise_quads_kernel,
    is_quads,
    pack_depthwise_quads,
    ranked_quad_tiles,
    takes_quads,
)
from fxquant.targets.kernels.parts.operand import PAIRS, QUADS
from fxquant.targets.kernels.words.x86 import Isa

# Tiles that are worth a measurement.
MOST_PAIRS, MOST_QUADS = 8, 5


class Pairs(Template):
    """Two taps at a time: columns x vectors."""

    NAME, TILE = "depthwise", DepthwiseTile

    def __init__(self, isa: Isa) -> None:
        self.isa = isa

    def declines(self, problem: ConvProblem, layer: Layer) -> Declined | None:
        """What is no depthwise convolution, or has too many taps to unroll."""
        if problem.drop or not is_depthwise(problem, self.isa):
            return Declined(self.NAME)
        return bordered(self.NAME, problem, QUADS, PAIRS)

    def tiles(self, problem: ConvProblem, layer: Layer) -> Sequence[DepthwiseTile]:
        """By modelled cost."""
        return ranked_depthwise_tiles(problem, self.isa)[:MOST_PAIRS]

    def choice(self, problem: ConvProblem, layer: Layer, numbers: Numbers, tile: DepthwiseTile) -> Choice:
        """The kernel, whose last vectors overlap those before."""
        packed = pack_depthwise(problem, self.isa, tile, layer, numbers)
        return Choice(self.NAME, tile, partial(depthwise_kernel, problem, self.isa, tile), packed, in_place=False)


class Quads(Template):
    """Four bytes of three rows of taps at a time."""

    NAME, TILE = "depthwise_quads", QuadTile

    def __init__(self, isa: Isa) -> None:
        self.isa = isa

    def declines(self, problem: ConvProblem, layer: Layer) -> Declined | None:
        """Another geometry, or weights that leave no room for a sum of two products."""
        if not is_depthwise(problem, self.isa) or QUADS.declines(self.NAME, problem.x):
            return Declined(self.NAME)
        if not is_quads(problem, self.isa):
            return Declined(self.NAME, f"it is for {HEIGHT} rows of taps, and a block of channels or more")
        if not takes_quads(self.isa, layer.weight):
            return Declined(self.NAME, "two products of these weights do not fit a sum of 16 bits")
        return bordered(self.NAME, problem, QUADS)

    def tiles(self, problem: ConvProblem, layer: Layer) -> Sequence[QuadTile]:
        """By modelled cost."""
        return ranked_quad_tiles(problem, self.isa)[:MOST_QUADS]

    def choice(self, problem: ConvProblem, layer: Layer, numbers: Numbers, tile: QuadTile) -> Choice:
        """The kernel, whose last blocks of channels overlap those before."""
        packed = pack_depthwise_quads(problem, self.isa, layer, numbers)
        build = partial(depthwise_quads_kernel, problem, self.isa, tile)
        return Choice(self.NAME, tile, build, packed, in_place=False)
