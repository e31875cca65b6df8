"""Which kernel computes a convolution: depthwise, Winograd, or the direct one."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxquant.targets.kernels.conv import conv_kernel
from fxquant.targets.kernels.conv_pack import pack_conv
from fxquant.targets.kernels.conv_plan import ConvProblem
from fxquant.targets.kernels.conv_tile import default_tile, wide_channels
from fxquant.targets.kernels.depthwise import default_depthwise_tile, depthwise_kernel, is_depthwise, pack_depthwise
from fxquant.targets.kernels.epilogue import Numbers
from fxquant.targets.kernels.kernel import Choice, Expansion
from fxquant.targets.kernels.simd import Isa
from fxquant.targets.kernels.winograd import pack_winograd, winograd_kernel
from fxquant.targets.kernels.winograd_math import exact_tiles
from fxquant.targets.kernels.winograd_plan import WinogradTile, choose_winograd, winograd_plan
from fxquant.targets.kernels.winograd_weights import expand_kernel, expand_key, packed_size

Array = np.ndarray[Any, Any]


def chosen(problem: ConvProblem, isa: Isa, weight: Array, bias: Array, zero: int, numbers: Numbers) -> Choice:
    """The fastest exact kernel by the cost model; what is exact depends on the weights."""
    tile: Any
    if is_depthwise(problem, isa):
        tile = default_depthwise_tile(problem, isa)
        packed = pack_depthwise(problem, isa, tile, weight, bias, zero, numbers)
        return Choice("depthwise", tile, lambda: depthwise_kernel(problem, isa, tile), packed)
    tile = default_tile(problem, isa, wide_channels(isa, weight))
    proven = exact_tiles(weight, bias, zero, -problem.x.bias, 255 - problem.x.bias)
    winograd = choose_winograd(problem, isa, proven)
    if winograd is not None:
        packed = pack_winograd(problem, isa, winograd, weight, bias, zero, numbers)
        expansions = {"weights": _expansion(problem, isa, winograd)}
        return Choice("winograd", winograd, lambda: winograd_kernel(problem, isa, winograd), packed, expansions)
    packed = pack_conv(problem, isa, tile, weight, bias, zero, numbers)
    return Choice("conv", tile, lambda: conv_kernel(problem, isa, tile), packed)


def _expansion(problem: ConvProblem, isa: Isa, tile: WinogradTile) -> Expansion:
    size = packed_size(winograd_plan(problem, isa, tile)) * np.dtype(np.int16).itemsize
    return Expansion(expand_key(problem, tile), lambda: expand_kernel(problem, isa, tile), size)
