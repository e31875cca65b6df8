"""Softmax, its logarithm, and normalization of rows, in integers from end to end."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxquant.arguments import argument, int_arg, ints_arg, node_arg
from fxquant.graph import constant_value, shape
from fxquant.ops.spelling import Int, Speller, Sum, Term, reach
from fxquant.ops.table import Fusion, RangeRule, float_op
from fxquant.qparams import QParams

aten, fxq = torch.ops.aten, torch.ops.fxq

# The scale of a softmax in 8 bits.
_STEP = 1.0 / 256
# The steps of one in 16 bits, by the longest row that they are for. Sums of fewer need no more than 32 bits.
_STEPS = {255: 0, 4096: 4095}


def _last_axis(node: fx.Node) -> str | None:
    ndim = len(shape(node))
    return None if int_arg(node, "dim") % ndim == ndim - 1 else "softmax over another axis than the last"


def _probabilities(node: fx.Node) -> tuple[float, float]:
    # The last of 256 codes at a power of two.
    return 0.0, 1.0 if _steps(node) else 255 * _STEP


def _steps(node: fx.Node) -> int:
    """More than 8 bits have where these are no finer than the mean probability of a row: small ones would be zero."""
    return next((steps for longest, steps in _STEPS.items() if int(shape(node)[-1]) <= longest), (1 << 15) - 1)


@float_op(
    aten.softmax.int, aten._softmax.default,
    range=RangeRule.KNOWN, bounds=_probabilities, steps=_steps, refuses=_last_axis,
)  # fmt: skip
def softmax(s: Speller, node: fx.Node) -> Int:
    """Softmax over the last axis, finer in long rows: a table of powers, an exact sum, one division per row."""
    x = s.int_(node.args[0])
    length = int(node.meta["val"].shape[-1])
    bits, table = _powers(s, x.qparams, length, node)
    own = node.meta["fxq.range"].qparams
    # Sums of very long rows leave fewer bits to the quotient: then 16 bits are rounded once more.
    finest = 2.0 ** (2 - bits)
    own = own if own.one_scale >= finest else QParams.tensor(finest, -(1 << 15), -(1 << 15), (1 << 15) - 1)
    numbers = round(2.0**32 / own.one_scale), own.one_zero_point, own.qmin, own.qmax
    call = s.call(fxq.softmax.default, x.node, table, *numbers, like=node)
    return Int(call, own)


def _powers(s: Speller, x: QParams, length: int, node: fx.Node) -> tuple[int, fx.Node]:
    bits, powers = powers_of(x, length)
    return bits, s.constant(powers, node, "powers")


def powers_of(x: QParams, length: int) -> tuple[int, torch.Tensor]:
    """How many fractional bits the powers of e have, and those of every distance from the largest of a row, s32."""
    # A whole row of the largest power must sum to less than 2^31.
    bits = min(23, 30 - math.ceil(math.log2(max(length, 2))))
    steps = torch.arange(x.qmax - x.qmin + 1, dtype=torch.float64)
    return bits, torch.round(torch.exp(-x.one_scale * steps) * 2.0**bits).to(torch.int32)


def _last_axis_kept(node: fx.Node) -> str | None:
    ndim = len(shape(node_arg(node, "self")))
    is_last = [axis % ndim for axis in ints_arg(node, "dim")] == [ndim - 1]
    return None if is_last and argument(node, "keepdim") else "a logarithm of sums over another axis than the last"


# Of a logarithm, in a step of x; fewer where that would not fit.
_FRACTION = 14


@float_op(aten.logsumexp.default, fusion=Fusion.SUM, refuses=_last_axis_kept)
def logsumexp(s: Speller, node: fx.Node) -> Sum:
    """log(sum(e^x)) over the last axis: softmax's powers, an exact sum, the logarithm by a table, not rounded yet."""
    x, length = s.int_(node.args[0]), int(shape(node_arg(node, 0))[-1])
    bits, table = _powers(s, x.qparams, length, node)
    largest = reach(x.qparams) + (31 * math.log(2.0) + math.log(length)) / x.qparams.one_scale
    fraction = max(0, min(_FRACTION, math.floor(30 - math.log2(largest))))
    s.prove_reach(largest * 2.0**fraction, node, "a logarithm in steps of its operand")
    unit = 2.0**fraction / x.qparams.one_scale
    curve = torch.round(torch.log1p(torch.arange(257, dtype=torch.float64) / 256) * unit).to(torch.int32)
    octave, origin = round(math.log(2.0) * unit), round((30 - bits) * math.log(2.0) * unit)
    numbers = x.qparams.one_zero_point, fraction, octave, origin
    acc = s.call(fxq.log_sum.default, x.node, table, s.constant(curve, node, "logarithms"), *numbers, like=node)
    return Sum((Term(acc, 0, torch.tensor([1.0 / unit], dtype=torch.float64)),))


# Then 62 bits hold the variance, and 63 a deviation times its reciprocal root.
LONGEST_REACH = 1 << 31


def _vector(node: fx.Node) -> str | None:
    if len(ints_arg(node, "normalized_shape")) != 1:
        return "a norm over more than the last axis"
    constants = [argument(node, name) for name in ("weight", "bias") if name in _affine_names(node)]
    if not all(a is None or a.op == "get_attr" for a in constants):
        return "its gamma or beta is computed, not constant"
    return None


def _affine_names(node: fx.Node) -> tuple[str, ...]:
    return ("weight",) if node.target is aten.rms_norm.default else ("weight", "bias")


def _unfit(module: fx.GraphModule, node: fx.Node) -> str | None:
    x, length = node_arg(node, 0).meta["fxq.range"].qparams, int(shape(node)[-1])
    if length * (x.qmax - x.qmin) >= LONGEST_REACH:
        return f"a norm over {length} values, more than {(LONGEST_REACH - 1) // (x.qmax - x.qmin)}"
    gains, offsets = _affine(lambda constant: constant_value(module, constant), node)
    fits = bool((gains.abs() < 2.0**31).all()) and bool((offsets.abs() < 2.0**62).all())
    return None if fits else "its results are so much smaller than its gamma or beta that 32 bits do not hold both"


def _affine(value: Callable[[fx.Node], torch.Tensor], node: fx.Node) -> tuple[torch.Tensor, torch.Tensor]:
    """Gamma and beta in the fixed point of the primitive, at the scale of the result."""
    gamma, beta = (argument(node, name) if name in _affine_names(node) else None for name in ("weight", "bias"))
    length, out = int(shape(node)[-1]), node.meta["fxq.range"].qparams
    gains = _constant(value, gamma, torch.ones(length)) / out.one_scale * 2.0**12
    return gains, (_constant(value, beta, torch.zeros(length)) / out.one_scale + out.one_zero_point) * 2.0**32


@float_op(aten.layer_norm.default, refuses=_vector, misfits=_unfit)
def layer_norm(s: Speller, node: fx.Node) -> Int:
    """Exact integer mean and variance, floor square root, one requantization with gamma and beta."""
    x = s.int_(node.args[0])
    return _normalized(s, node, x, fxq.layer_norm.default, (x.node,))


@float_op(aten.rms_norm.default, refuses=_vector, misfits=_unfit)
def rms_norm(s: Speller, node: fx.Node) -> Int:
    """The same about zero: the exact mean square, its floor square root, one requantization with gamma."""
    x = s.int_(node.args[0])
    return _normalized(s, node, x, fxq.rms_norm.default, (x.node, x.qparams.one_zero_point))


def _normalized(s: Speller, node: fx.Node, x: Int, primitive: Any, operands: tuple[Any, ...]) -> Int:
    out, length, eps = node.meta["fxq.range"].qparams, int(shape(node)[-1]), argument(node, "eps")
    eps = torch.finfo(torch.float32).eps if eps is None else float(eps)
    gains, offsets = _affine(s.tensor, node)
    multiplier = s.constant(torch.round(gains).to(torch.int32), node, "multiplier")
    offset = s.constant(torch.round(offsets).to(torch.int64), node, "offset")
    # Fractional bits of the variance, so that epsilon counts in short rows as well: as many as 61 bits have room for.
    largest = 2 * (length * (x.qparams.qmax - x.qparams.qmin)).bit_length() - 2
    half = max(0, min(4, (60 - largest) // 2))
    epsilon = min(round(4**half * eps * length**2 / x.qparams.one_scale**2), 1 << 60)
    numbers = epsilon, half, out.qmin, out.qmax
    return Int(s.call(primitive, *operands, multiplier, offset, *numbers, like=node), out)


def _constant(value: Callable[[fx.Node], torch.Tensor], argument: Any, default: torch.Tensor) -> torch.Tensor:
    return (default if argument is None else value(argument)).double()
