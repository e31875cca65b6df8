"""Direct convolution for x86: every geometry through loops over four-byte windows of the input.

The function is `void f(int32 task, x, bias, weights, [offsets, blocks], [multiplier, scalars, [table]], [residual],
out, [scratch])`; the constants are those of `pack_conv`, in that order. Constants and scratch start at multiples of 64
bytes; x, residual and out anywhere.
"""

from __future__ import annotations

from fxquant.targets.kernels.conv_body import ALIGNMENT
from fxquant.targets.kernels.conv_plan import ConvProblem
from fxquant.targets.kernels.conv_sorted import Sorted
from fxquant.targets.kernels.conv_tile import Tile, default_tile, task_grid, task_reach
from fxquant.targets.kernels.conv_uniform import Uniform
from fxquant.targets.kernels.kernel import Kernel
from fxquant.targets.kernels.simd import Isa, prim_func


def conv_kernel(problem: ConvProblem, isa: Isa, tile: Tile | None = None) -> Kernel:
    """The kernel of `problem`; beside it depends on the tile only, in which weights have no part but `Tile.uniform`."""
    tile = tile or default_tile(problem, isa)
    pieces = task_grid(problem, isa, tile)
    scratch = 0
    if not (isa.exact_quads or tile.uniform):
        scratch = -(-2 * task_reach(problem, tile, pieces[0]) // ALIGNMENT) * ALIGNMENT
    with prim_func("conv") as finish:
        body = (Uniform if tile.uniform else Sorted)(problem, isa, tile, scratch)
        body.emit(*pieces)
    return Kernel(finish(), pieces[0] * pieces[1], scratch)
