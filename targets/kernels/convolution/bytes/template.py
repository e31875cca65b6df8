"""The template of the direct x86 kernel, which computes every convolution of bytes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from functools import partial

from fxquant.targets.kernels.contract.epilogue import Numbers
from fxquant.targets.kernels.contract.kernel import Choice, Declined
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.contract.template import Template
from fxquant.targets.kernels.convolution.bytes.kernel import conv_kernel
from fxquant.targets.kernels.convolution.bytes.pack import is_uniform, pack_conv
from fxquant.targets.kernels.convolution.bytes.tile import Tile, ranked_tiles, room
from fxquant.targets.kernels.words.x86 import Isa

MOST = 10  # tiles that are worth a measurement
FAR = 1 << 24  # bytes of weights that come from memory, or from far away in the last cache: there half of them pay


class Direct(Template):
    """Tiles of pixels x vectors of channels, by modelled cost."""

    NAME, TILE = "conv", Tile

    def __init__(self, isa: Isa) -> None:
        self.isa = isa

    def declines(self, problem: ConvProblem, layer: Layer) -> Declined | None:
        """What is not in bytes, or has no border around it in memory."""
        return bordered(self.NAME, problem)

    def tiles(self, problem: ConvProblem, layer: Layer) -> Sequence[Tile]:
        """Those whose sums stay in registers."""
        return ranked_tiles(problem, self.isa, *self._room(problem, layer))[:MOST]

    def choice(self, problem: ConvProblem, layer: Layer, numbers: Numbers, tile: Tile) -> Choice:
        """The kernel; its tasks share rows, so that nothing is overwritten."""
        packed = pack_conv(problem, self.isa, tile, layer, numbers)
        return Choice(self.NAME, tile, partial(conv_kernel, problem, self.isa, tile), packed, in_place=False)

    def room(self, problem: ConvProblem, layer: Layer) -> str:
        """How many products 16 bits hold, and whether they do everywhere."""
        products, uniform = self._room(problem, layer)
        return f"{products}{'u' * uniform}"

    def _room(self, problem: ConvProblem, layer: Layer) -> tuple[int, bool]:
        return room(self.isa, layer.weight), is_uniform(problem, self.isa, layer.weight)


class PackedRow(Direct):
    """One row times a matrix too large for a cache: weights of few bits stay so in memory, and are read once."""

    NAME = "packed-row"

    def declines(self, problem: ConvProblem, layer: Layer) -> Declined | None:
        """More pixels than one, which share a weight, and weights of 8 bits."""
        if layer.bits == 8 or not problem.is_pointwise or problem.out.shape[1:] != (1, 1):
            return Declined(self.NAME)
        if not is_uniform(problem, self.isa, layer.weight) or not self.tiles(problem, layer):
            return Declined(self.NAME, f"no tile of {self.isa.name} takes weights of {layer.bits} bits as they are")
        return super().declines(problem, layer)

    def is_preferred(self, problem: ConvProblem, layer: Layer) -> bool:
        """Whether waiting for bytes takes longer than widening them (`benchmarks/low_bits.py`)."""
        return layer.weight.size >= FAR

    def tiles(self, problem: ConvProblem, layer: Layer) -> Sequence[Tile]:
        """Those whose vectors are whole chunks."""
        return [tile for tile in super().tiles(problem, layer) if tile.vectors % (8 // layer.bits) == 0]

    def choice(self, problem: ConvProblem, layer: Layer, numbers: Numbers, tile: Tile) -> Choice:
        """The kernel that widens weights in registers."""
        return super().choice(replace(problem, weight_bits=layer.bits), layer, numbers, tile)


def bordered(kernel: str, problem: ConvProblem) -> Declined | None:
    """Why a kernel that tests for no edge does not take a problem."""
    if problem.x.dtype != "uint8":
        return Declined(kernel, f"{problem.x.dtype} operand")
    return None if problem.is_inside else Declined(kernel, "it reads outside of its operand")
