"""One row times weights of few bits: read as they lie in memory, widened in registers.

Half of the bytes, or a quarter, come from memory, which is what a matrix that fits no cache waits for; a shift or two
for each vector of weights are for nothing. Four products of them always fit 16 bits, so that windows are double.
"""

from __future__ import annotations

from typing import Any

from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.convolution.bytes.tile import Tile
from fxquant.targets.kernels.convolution.bytes.uniform import Uniform
from fxquant.targets.kernels.convolution.bytes.windows import QUAD
from fxquant.targets.kernels.parts.weights import Stored
from fxquant.targets.kernels.words.tir import load
from fxquant.targets.kernels.words.x86 import Isa
from fxquant.targets.tvm_api import I, tirx


class Packed(Uniform):
    """A chunk is a vector of bytes, which holds the weights of two or four neighbouring vectors of channels."""

    def __init__(self, problem: ConvProblem, isa: Isa, tile: Tile, pieces: tuple[int, int]) -> None:
        super().__init__(problem, isa, tile, pieces)
        self.stored = Stored(problem.weight_bits, isa.lanes * QUAD)
        # By chunk: where its window's weights begin (an object's id is its own while it lives), and its parts.
        self.chunks: dict[tuple[int, int], tuple[Any, list[Any]]] = {}

    def quad(self, first: Any, vector: int) -> Any:
        """One window's weights for one vector of channels, of a chunk that is loaded with the first of them."""
        number, part = divmod(vector, self.stored.count)
        key = id(first), number
        if key not in self.chunks:
            shift = tirx.const(self.stored.count.bit_length() - 1, "int32")
            at = I.shift_right(first, shift) + number * self.stored.lanes
            loaded = I.Bind(load(self.weights, at, self.stored.lanes))
            self.chunks[key] = first, [I.Bind(p) for p in self.stored.parts(loaded)]
        return self.chunks[key][1][part]

    def fetch_ahead(self, following: Any, line: Any) -> None:
        """Nothing: memory streams past, and the CPU sees that it does."""
