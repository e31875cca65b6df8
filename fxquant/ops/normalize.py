"""Softmax and layer normalization, in integers from end to end."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxquant.arguments import arguments, float_arg, int_arg, ints_arg
from fxquant.graph import constant_value, shape
from fxquant.ops.spelling import Int, Speller
from fxquant.ops.table import RangeRule, float_op
from fxquant.qparams import QParams

aten, fxq = torch.ops.aten, torch.ops.fxq

# The scale of a softmax.
_STEP = 1.0 / 256


def _last_axis(node: fx.Node) -> str | None:
    ndim = len(shape(node))
    return None if int_arg(node, "dim") % ndim == ndim - 1 else "softmax over another axis than the last"


def _probabilities(node: fx.Node) -> tuple[float, float]:
    # The last of 256 codes at the scale that the primitive gives: the result is not requantized.
    return 0.0, 255 * _STEP


@float_op(aten.softmax.int, aten._softmax.default, range=RangeRule.KNOWN, bounds=_probabilities, refuses=_last_axis)
def softmax(s: Speller, node: fx.Node) -> Int:
    """Softmax over the last axis at scale 1/256: a table of powers, an exact sum, one division per row."""
    x = s.int_(node.args[0])
    length = int(node.meta["val"].shape[-1])
    # A whole row of the largest power must sum to less than 2^31.
    bits = min(23, 30 - math.ceil(math.log2(max(length, 2))))
    steps = torch.arange(x.qparams.qmax - x.qparams.qmin + 1, dtype=torch.float64)
    powers = torch.round(torch.exp(-x.qparams.one_scale * steps) * 2.0**bits).to(torch.int32)
    table = s.constant(powers, node, "powers")
    out = node.meta["fxq.range"].qparams
    # Other codes than 256 would not reach from 0 to 1 at this scale: then the result is rounded once more.
    own = out if out.one_scale == _STEP and out.qmax - out.qmin == 255 else QParams.tensor(_STEP, -128)
    call = s.call(fxq.softmax.default, x.node, table, own.one_zero_point, own.qmin, own.qmax, like=node)
    return Int(call, own)


# With longer rows, the variance of 16-bit values would leave 62 bits.
LONGEST_ROW = (1 << 15) - 1


def _vector(node: fx.Node) -> str | None:
    if len(ints_arg(node, "normalized_shape")) != 1:
        return "layer norm over more than the last axis"
    if not all(a is None or a.op == "get_attr" for a in arguments(node)[2:4]):
        return "its gamma or beta is computed, not constant"
    length = int(node.meta["val"].shape[-1])
    return None if length <= LONGEST_ROW else f"layer norm over {length} values, more than {LONGEST_ROW}"


def _too_fine(module: fx.GraphModule, node: fx.Node) -> str | None:
    gains, offsets = _affine(module, node)
    fits = bool((gains.abs() < 2.0**31).all()) and bool((offsets.abs() < 2.0**62).all())
    return None if fits else "its results are so much smaller than its gamma or beta that 32 bits do not hold both"


def _affine(module: fx.GraphModule, node: fx.Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Gamma and beta in the fixed point of the primitive, at the scale of the result."""
    _, _, gamma, beta, *_ = arguments(node)
    length, out = int(shape(node)[-1]), node.meta["fxq.range"].qparams
    gains = _constant(module, gamma, torch.ones(length)) / out.one_scale * 2.0**12
    return gains, (_constant(module, beta, torch.zeros(length)) / out.one_scale + out.one_zero_point) * 2.0**32


@float_op(aten.layer_norm.default, refuses=_vector, misfits=_too_fine)
def layer_norm(s: Speller, node: fx.Node) -> Int:
    """Exact integer mean and variance, floor square root, one requantization with gamma and beta."""
    x, out = s.int_(node.args[0]), node.meta["fxq.range"].qparams
    length, eps = int(shape(node)[-1]), float_arg(node, "eps")
    gains, offsets = _affine(s.module, node)
    multiplier = s.constant(torch.round(gains).to(torch.int32), node, "multiplier")
    offset = s.constant(torch.round(offsets).to(torch.int64), node, "offset")
    # Fractional bits of the variance, so that epsilon counts in short rows as well: as many as 61 bits have room for.
    largest = 2 * (length * (x.qparams.qmax - x.qparams.qmin)).bit_length() - 2
    half = max(0, min(4, (60 - largest) // 2))
    epsilon = min(round(4**half * eps * length**2 / x.qparams.one_scale**2), 1 << 60)
    numbers = epsilon, half, out.qmin, out.qmax
    call = s.call(fxq.layer_norm.default, x.node, multiplier, offset, *numbers, like=node)
    return Int(call, out)


def _constant(module: fx.GraphModule, argument: Any, default: torch.Tensor) -> torch.Tensor:
    return (default if argument is None else constant_value(module, argument)).double()
