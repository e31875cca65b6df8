"""From an offer to a kernel: the constants of the candidate that was picked are packed, and its code can be built."""

from __future__ import annotations

from typing import Any

import numpy as np

from fxquant.bounds import Bounds
from fxquant.targets.kernels.choosing import Candidate, Offer
from fxquant.targets.kernels.contract.kernel import Choice, Expansion
from fxquant.targets.kernels.convolution.bytes.kernel import conv_kernel
from fxquant.targets.kernels.convolution.bytes.pack import is_uniform, pack_conv
from fxquant.targets.kernels.convolution.bytes.tile import room
from fxquant.targets.kernels.convolution.bytes.windows import ConvProblem
from fxquant.targets.kernels.convolution.winograd.kernel import pack_winograd, winograd_kernel
from fxquant.targets.kernels.convolution.winograd.math import exact_tiles
from fxquant.targets.kernels.convolution.winograd.plan import WinogradTile, winograd_plan
from fxquant.targets.kernels.convolution.winograd.weights import expand_kernel, expand_key, packed_size
from fxquant.targets.kernels.depthwise.pairs import depthwise_kernel, is_depthwise, pack_depthwise
from fxquant.targets.kernels.depthwise.quads import depthwise_quads_kernel, is_quads, pack_depthwise_quads, takes_quads
from fxquant.targets.kernels.epilogue.x86 import Numbers
from fxquant.targets.kernels.words.x86 import Isa

Array = np.ndarray[Any, Any]


def offered(problem: ConvProblem, isa: Isa, weight: Array, bounds: Bounds) -> Offer:
    """The exact kernels of a problem; what is exact depends on the weights."""
    if is_depthwise(problem, isa):
        return Offer(problem, isa, 1, (), is_quads(problem, isa) and takes_quads(isa, weight))
    return Offer(problem, isa, room(isa, weight), exact_tiles(bounds), is_uniform(problem, isa, weight))


def chosen(offer: Offer, picked: Candidate, weight: Array, bias: Array, zero: int, numbers: Numbers) -> Choice:
    """The kernel of one of the offer's candidates."""
    problem, isa, tile = offer.problem, offer.isa, picked.tile
    if picked.kernel == "depthwise":
        packed = pack_depthwise(problem, isa, tile, weight, bias, zero, numbers)
        return Choice("depthwise", tile, lambda: depthwise_kernel(problem, isa, tile), packed)
    if picked.kernel == "depthwise_quads":
        packed = pack_depthwise_quads(problem, isa, weight, bias, zero, numbers)
        return Choice("depthwise_quads", tile, lambda: depthwise_quads_kernel(problem, isa, tile), packed)
    if picked.kernel == "winograd":
        packed = pack_winograd(problem, isa, tile, weight, bias, zero, numbers)
        expansions = {"weights": _expansion(problem, isa, tile)}
        return Choice("winograd", tile, lambda: winograd_kernel(problem, isa, tile), packed, expansions)
    packed = pack_conv(problem, isa, tile, weight, bias, zero, numbers)
    return Choice("conv", tile, lambda: conv_kernel(problem, isa, tile), packed)


def _expansion(problem: ConvProblem, isa: Isa, tile: WinogradTile) -> Expansion:
    size = packed_size(winograd_plan(problem, isa, tile)) * np.dtype(np.int16).itemsize
    return Expansion(expand_key(problem, tile), lambda: expand_kernel(problem, isa, tile), size)
