"""Direct convolution for x86: every geometry through loops over four-byte windows of the input.

The function is `void f(int32 task, x, bias, weights, [offsets, blocks], [multiplier, scalars, [table]], [residual],
out, [scratch])`; the constants are those of `pack_conv`, in that order. Constants and scratch start at multiples of 64
bytes; x, residual and out anywhere.
"""

from __future__ import annotations

from math import prod

from fxquant.targets.kernels.contract.kernel import Kernel
from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.convolution.bytes.packed import Packed
from fxquant.targets.kernels.convolution.bytes.sorted import Sorted
from fxquant.targets.kernels.convolution.bytes.tile import Tile, default_tile, task_grid
from fxquant.targets.kernels.convolution.bytes.uniform import Uniform
from fxquant.targets.kernels.words.tir import prim_func
from fxquant.targets.kernels.words.x86 import Isa


def conv_kernel(problem: ConvProblem, isa: Isa, tile: Tile | None = None) -> Kernel:
    """The kernel of `problem`; beside it depends on the tile only, in which weights have no part but `Tile.uniform`."""
    tile = tile or default_tile(problem, isa)
    pieces = task_grid(problem, isa, tile)
    with prim_func("conv") as finish:
        kind = Packed if problem.weight_bits < 8 else Uniform if tile.uniform else Sorted
        body = kind(problem, isa, tile, pieces)
        body.emit()
    return Kernel(finish(), prod(pieces), body.scratch)
