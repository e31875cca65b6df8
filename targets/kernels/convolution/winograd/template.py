"""The template of Winograd's kernel."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

import numpy as np

from fxquant import geometry
from fxquant.targets.kernels.contract.epilogue import Numbers
from fxquant.targets.kernels.contract.kernel import Choice, Declined, Expansion
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.contract.template import Template
from fxquant.targets.kernels.convolution.bytes.template import bordered
from fxquant.targets.kernels.convolution.winograd.kernel import pack_winograd, winograd_kernel
from fxquant.targets.kernels.convolution.winograd.math import exact_tiles
from fxquant.targets.kernels.convolution.winograd.plan import (
    WinogradTile,
    choose_winograd,
    is_winograd,
    ranked_winograd_tiles,
    winograd_plan,
)
from fxquant.targets.kernels.convolution.winograd.weights import expand_kernel, expand_key, packed_size
from fxquant.targets.kernels.words.x86 import Isa

MOST = 4  # tiles of each output size that are worth a measurement


class Winograd(Template):
    """Tiles of the output sizes that are proven exact for these very weights."""

    NAME, TILE = "winograd", WinogradTile

    def __init__(self, isa: Isa) -> None:
        self.isa = isa

    def declines(self, problem: ConvProblem, layer: Layer) -> Declined | None:
        """Other windows than 3x3, and weights whose sums could leave the ring."""
        if not geometry.is_winograd(problem.kernel, problem.stride, problem.groups):
            return Declined(self.NAME)
        if not _sizes(problem, layer):
            return Declined(self.NAME, "no tile is proven exact for these weights and this size of image")
        return bordered(self.NAME, problem)

    def is_preferred(self, problem: ConvProblem, layer: Layer) -> bool:
        """Whether the model expects it to be faster than the direct kernel."""
        return self._best(problem, layer) is not None

    def tiles(self, problem: ConvProblem, layer: Layer) -> Sequence[WinogradTile]:
        """Some of each size, the best of all first where it is preferred."""
        ranked = [tile for size in _sizes(problem, layer) for tile in self._ranked(problem, size)]
        best = self._best(problem, layer)
        return ranked if best is None else [best, *(tile for tile in ranked if tile != best)]

    def choice(self, problem: ConvProblem, layer: Layer, numbers: Numbers, tile: WinogradTile) -> Choice:
        """The kernel; its weights are stored as they are given, and transformed when a model is loaded."""
        packed = pack_winograd(problem, self.isa, tile, layer, numbers)
        size = packed_size(winograd_plan(problem, self.isa, tile)) * np.dtype(np.int16).itemsize
        build = partial(expand_kernel, problem, self.isa, tile, layer.bits)
        expansions = {"weights": Expansion((*expand_key(problem, tile), layer.bits), build, size)}
        made = partial(winograd_kernel, problem, self.isa, tile)
        return Choice(self.NAME, tile, made, packed, expansions, in_place=False)

    def room(self, problem: ConvProblem, layer: Layer) -> str:
        """The sizes that are exact."""
        return "x".join(map(str, _sizes(problem, layer)))

    def _best(self, problem: ConvProblem, layer: Layer) -> WinogradTile | None:
        return choose_winograd(problem, self.isa, _sizes(problem, layer))

    def _ranked(self, problem: ConvProblem, size: int) -> Sequence[WinogradTile]:
        return ranked_winograd_tiles(problem, self.isa, size)[:MOST]


def _sizes(problem: ConvProblem, layer: Layer) -> tuple[int, ...]:
    """Output sizes that fit the image and are exact, whatever the operand."""
    return tuple(size for size in exact_tiles(layer.bounds(problem.x)) if is_winograd(problem, size))
