"""Softmax and layer normalization, in integers from end to end."""

from __future__ import annotations

import math
from typing import Any

import torch
from torch import fx

from fxquant.arguments import arguments, int_arg, ints_arg
from fxquant.errors import LoweringError
from fxquant.graph import constant_value, shape
from fxquant.ops.spelling import Int, Speller
from fxquant.ops.table import RangeRule, float_op
from fxquant.qparams import QParams
from fxquant.source import describe

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
    length = int(node.meta["val"].shape[-1])
    return None if length <= LONGEST_ROW else f"layer norm over {length} values, more than {LONGEST_ROW}"


@float_op(aten.layer_norm.default, refuses=_vector)
def layer_norm(s: Speller, node: fx.Node) -> Int:
    """Exact integer mean and variance, floor square root, one requantization with gamma and beta."""
    source, _, gamma, beta, eps = arguments(node)[:5]
    x, out = s.int_(source), node.meta["fxq.range"].qparams
    length = int(node.meta["val"].shape[-1])
    scale, zero = out.one_scale, out.one_zero_point
    g = _constant(s, gamma, torch.ones(length)) / scale * 2.0**12
    b = (_constant(s, beta, torch.zeros(length)) / scale + zero) * 2.0**32
    if bool((g.abs() >= 2.0**31).any()) or bool((b.abs() >= 2.0**62).any()):
        raise LoweringError(f"{describe(node)}: gamma or beta is too large for the scale {scale:g} of its result")
    multiplier = s.constant(torch.round(g).to(torch.int32), node, "multiplier")
    offset = s.constant(torch.round(b).to(torch.int64), node, "offset")
    # Fractional bits of the variance, so that epsilon counts in short rows as well: as many as 61 bits have room for.
    largest = 2 * (length * (x.qparams.qmax - x.qparams.qmin)).bit_length() - 2
    half = max(0, min(4, (60 - largest) // 2))
    epsilon = min(round(4**half * float(eps) * length**2 / x.qparams.one_scale**2), 1 << 60)
    numbers = epsilon, half, out.qmin, out.qmax
    call = s.call(fxq.layer_norm.default, x.node, multiplier, offset, *numbers, like=node)
    return Int(call, out)


def _constant(s: Speller, argument: Any, default: torch.Tensor) -> torch.Tensor:
    return (default if argument is None else constant_value(s.module, argument)).double()
