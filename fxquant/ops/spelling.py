"""The algebra in which float ops are respelled as integer primitives.

While a QUANTIZED graph is folded, every float value is known in one of a few forms: integers with their parameters
(`Int`), a sum of scaled integer terms that has not been rounded yet (`Sum`: accumulators, with a clamp pending), a
function of one integer (`Pointwise`), or a float tensor after all (`Float`). A `quantize` node rounds whatever it
meets.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor, fx

from fxquant.bounds import sum_bounds
from fxquant.errors import AccumulatorOverflowError, LoweringError, OpTableError
from fxquant.graph import add_constant, call, constant_value
from fxquant.ops.fixed_point import encode, encode_narrow
from fxquant.ops.table import FloatOp
from fxquant.primitives.registry import storage
from fxquant.primitives.rescale import CURVE_FRACTION
from fxquant.qparams import QParams
from fxquant.source import describe

INFINITY = float("inf")
# Functions of more codes are straight lines between knots, where these are close to them.
LONGEST_TABLE = 1 << 12
# A knot every 256 codes at most, and every 16 at least: from 1 to 16 kB.
MOST_STEP, LEAST_STEP = 8, 4
ACCUMULATOR_LIMIT = 1 << 31


@dataclass(frozen=True)
class Int:
    """Integers of 8 or 16 bits: real value = scale * (node - zero point).

    With a range that is found at run time, real values are in units of `by`, a scale per sample.
    """

    node: fx.Node
    qparams: QParams
    by: fx.Node | None = None


@dataclass(frozen=True)
class Term:
    """scale * (node - zero), `scale` float64 and broadcastable to the node.

    `largest` is the largest magnitude of the node, shaped like `scale`, where narrow multipliers are asked for.
    """

    node: fx.Node
    zero: int
    scale: Tensor
    largest: Tensor | None = None


@dataclass(frozen=True)
class Sum:
    """clamp(sum of terms, low, high), not rounded yet; `bias` is a float constant that is still to be added."""

    terms: tuple[Term, ...]
    low: float = -INFINITY
    high: float = INFINITY
    bias: Tensor | None = None

    def clamped(self, low: float, high: float) -> Sum:
        """The sum clamped once more."""
        return replace(self, low=min(max(self.low, low), high), high=max(min(self.high, high), low))

    def times(self, factor: float | Tensor) -> Sum:
        """The sum scaled by a constant, or by one for each place.

        Raises LoweringError for the latter of a clamped sum.
        """
        if isinstance(factor, Tensor):
            if (self.low, self.high) != (-INFINITY, INFINITY):
                raise LoweringError("a clamped sum is scaled by one number only")
            return Sum(tuple(replace(t, scale=t.scale * factor, largest=None) for t in self.terms))
        ends = sorted((self.low * factor, self.high * factor)) if factor else [0.0, 0.0]
        return Sum(tuple(replace(t, scale=t.scale * factor) for t in self.terms), ends[0], ends[1])


@dataclass(frozen=True)
class Pointwise:
    """function(source), the function taking and giving float64."""

    source: Int
    function: Callable[[Tensor], Tensor]


@dataclass(frozen=True)
class Weight:
    """A constant tensor quantized symmetrically, with one scale per channel; `narrow` as its scheme says."""

    integers: Tensor
    scale: Tensor
    narrow: bool = False


@dataclass(frozen=True)
class Float:
    """A float value of the graph."""

    node: fx.Node


Value = Int | Sum | Pointwise | Weight | Float


def spelled(record: FloatOp, s: Speller, node: fx.Node) -> Value:
    """What a call becomes by its record. Raises OpTableError, naming it, where that is no value of the call's shape."""
    with record.blamed("its speller", node):
        found: object = record.spell(s, node)
    if not isinstance(found, (Int, Sum, Pointwise)):
        raise OpTableError(
            f"the speller of the record {record.name!r} gives {found!r} for {describe(node)}: an Int, a Sum or a "
            "Pointwise is wanted (fxquant.ops.spelling)"
        )
    if isinstance(found, Int) and _sizes(found.node) != _sizes(node):
        raise OpTableError(
            f"the speller of the record {record.name!r} gives an Int of {found.node!r}, whose shape "
            f"{_sizes(found.node)} is not {_sizes(node)}, that of {describe(node)}"
        )
    return found


def _sizes(node: object) -> list[str] | None:
    return [str(size) for size in node.meta["val"].shape] if isinstance(node, fx.Node) else None


class Speller:
    """Writes primitives just before the node that is being respelled, and remembers what every value has become."""

    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.values: dict[fx.Node, Value] = {}

    def known(self, argument: Any) -> Value:
        """What a value has become."""
        return self.values[argument]

    def int_(self, argument: Any) -> Int:
        """An operand that must be integers by now."""
        found = self.known(argument)
        if not isinstance(found, Int):
            raise LoweringError(f"{describe(argument)} is not quantized here: InsertQDQ must quantize this operand")
        return found

    def sum_(self, argument: Any) -> Sum:
        """An operand as a sum: accumulators as they are, integers as one term."""
        found = self.known(argument)
        if isinstance(found, Sum):
            return found
        whole = self.int_(argument)
        scale = torch.tensor([whole.qparams.one_scale], dtype=torch.float64)
        return Sum((Term(whole.node, whole.qparams.one_zero_point, scale),))

    def weight(self, argument: Any) -> Weight:
        """A quantized constant operand."""
        found = self.known(argument)
        if not isinstance(found, Weight):
            raise LoweringError(f"{describe(argument)} is not a quantized weight")
        return found

    def tensor(self, argument: Any) -> Tensor:
        """The float constant behind an operand."""
        return constant_value(self.module, argument)

    def constant(self, tensor: Tensor, like: fx.Node, role: str) -> fx.Node:
        """A new constant of the graph, named after the node it serves."""
        return add_constant(self.module, tensor.contiguous(), f"{like.name}_{role}")

    def call(self, target: Any, *args: Any, like: fx.Node) -> fx.Node:
        """A new call with the provenance of `like`."""
        return call(self.module.graph, target, *args, like=like)

    def bias(self, argument: Any, scale: Tensor, like: fx.Node) -> tuple[fx.Node | None, Tensor]:
        """A float bias as s32 at the accumulators' scale: (node or None, integers as float64)."""
        if argument is None:
            return None, torch.zeros(1, dtype=torch.float64)
        exact = torch.round(self.tensor(argument).double() / scale.flatten())
        if bool((exact.abs() >= ACCUMULATOR_LIMIT).any()):
            raise AccumulatorOverflowError(f"the bias of {describe(like)} does not fit 32 bits at its scale")
        return self.constant(exact.to(torch.int32), like, "bias"), exact

    def prove(self, weight: Tensor, x: QParams, bias: Tensor, like: fx.Node) -> Tensor:
        """Prove from the weights (channels first) and the operand's integers that no accumulator leaves 32 bits.

        Returns the largest magnitude by channel.
        """
        least, greatest = sum_bounds(weight.numpy(), bias.numpy(), x.one_zero_point, x.qmin, x.qmax)
        largest = torch.from_numpy(np.maximum(greatest, -least))
        channel = int(largest.argmax())
        self.prove_reach(float(largest[channel]), like, f"channel {channel}")
        return largest

    def prove_reach(self, largest: float, like: fx.Node, what: str = "a sum") -> None:
        """Refuse an accumulator that can become `largest` if 32 bits do not hold it."""
        if largest >= ACCUMULATOR_LIMIT:
            raise AccumulatorOverflowError(
                f"{describe(like)}: {what} can reach {largest:.4g}, beyond the 32-bit accumulator; "
                "use fewer bits for its operand, or leave the layer in float by the recipe"
            )

    def real(self, value: Sum, by: fx.Node, like: fx.Node) -> fx.Node:
        """Floats for the accumulators of one term whose unit is only known at run time."""
        (term,) = value.terms
        bias = torch.zeros_like(term.scale) if value.bias is None else value.bias.reshape(term.scale.shape)
        constants = [self.constant(t.float(), like, role) for t, role in ((term.scale, "factor"), (bias, "bias"))]
        return self.call(torch.ops.fxq.rescale_real.default, term.node, constants[0], by, constants[1], like=like)

    def rounded(self, value: Value, qparams: QParams, like: fx.Node) -> fx.Node:
        """Integers of `qparams` for any value that is not float: the one place where rounding happens."""
        if isinstance(value, Int):
            if value.qparams == qparams:
                return value.node
            scale = torch.tensor([value.qparams.one_scale], dtype=torch.float64)
            value = Sum((Term(value.node, value.qparams.one_zero_point, scale),))
        if isinstance(value, Pointwise):
            return self._table(value, qparams, like)
        if isinstance(value, Sum):
            return self._rescaled(value, qparams, like)
        raise LoweringError(f"{describe(like)} cannot be rounded to integers")

    def _table(self, value: Pointwise, qparams: QParams, like: fx.Node) -> fx.Node:
        real = _numbers(value.function(reals(value.source.qparams)))
        codes = torch.nan_to_num(real) / qparams.one_scale + qparams.one_zero_point
        table = (torch.round(codes - qparams.one_zero_point) + qparams.one_zero_point).clamp(qparams.qmin, qparams.qmax)
        drawn = curved(codes.clamp(qparams.qmin, qparams.qmax), table) if len(table) > LONGEST_TABLE else None
        if drawn is None:
            return self.lookup(value.source, table.to(qparams.dtype), like)
        step, knots = drawn
        numbers = value.source.qparams.qmin, step, qparams.qmin, qparams.qmax
        return self.call(torch.ops.fxq.curve.default, value.source.node, self.constant(knots, like, "knots"), *numbers,
                         like=like)  # fmt: skip

    def lookup(self, source: Int, table: Tensor, like: fx.Node) -> fx.Node:
        """The entry of each code in a table that begins with the least one."""
        node = self.constant(table, like, "table")
        return self.call(torch.ops.fxq.lookup.default, source.node, node, source.qparams.qmin, like=like)

    def _rescaled(self, value: Sum, qparams: QParams, like: fx.Node) -> fx.Node:
        zero, scale = qparams.one_zero_point, qparams.one_scale
        low = max(qparams.qmin, _code(value.low, scale, zero, qparams))
        high = min(qparams.qmax, _code(value.high, scale, zero, qparams))
        if low == high or storage(low, high) is not qparams.dtype:
            # The primitives store in what their clamp needs; the value must be stored like all others of its scale.
            whole = Int(self._rescaled(Sum(value.terms), qparams, like), qparams)
            return self.lookup(
                whole, torch.arange(qparams.qmin, qparams.qmax + 1).clamp(low, high).to(qparams.dtype), like
            )
        first, *rest = value.terms
        shift, multipliers = encode(*(t.scale / scale for t in value.terms))
        if not rest and first.largest is not None and qparams.dtype is not torch.int16:
            narrow = encode_narrow(first.scale / scale, first.largest)
            shift, multipliers = (shift, multipliers) if narrow is None else (0, [narrow])
        nodes = [self.constant(m, like, "multiplier") for m in multipliers]
        if not rest:
            target = torch.ops.fxq.requantize.default
            return self.call(target, first.node, nodes[0], shift, first.zero, zero, low, high, like=like)
        if len(rest) > 1:
            raise LoweringError(f"{describe(like)} adds more than two unrounded terms")
        left = (first.node, nodes[0], shift, first.zero)
        right = (rest[0].node, nodes[1], shift, rest[0].zero)
        return self.call(torch.ops.fxq.add.default, *left, *right, zero, low, high, like=like)


def curved(codes: Tensor, table: Tensor) -> tuple[int, Tensor] | None:
    """Knots 2^step codes apart, as few as give no more than a code's difference to `table`; None where many are needed.

    `codes` are the function's values, not rounded, of all codes of its operand, `table` the same rounded.
    """
    last, places = len(codes) - 1, torch.arange(len(codes))
    for step in range(MOST_STEP, LEAST_STEP - 1, -1):
        at = torch.arange(0, last + (1 << step) + 1, 1 << step).clamp(max=last)
        ends = codes[at]
        if last % (1 << step):  # the line beyond the last code goes on as it came
            share = (last % (1 << step)) / (1 << step)
            ends[-1] = ends[-2] + (codes[last] - ends[-2]) / share
        knots = torch.round(ends * (1 << CURVE_FRACTION)).to(torch.int64)
        left, right = knots[places >> step], knots[(places >> step) + 1]
        found = left + ((right - left) * (places & (1 << step) - 1) >> step)
        found = found + (1 << CURVE_FRACTION >> 1) >> CURVE_FRACTION
        is_close = bool(((found.clamp(table.min(), table.max()) - table).abs() <= 1).all())
        if is_close and bool(((right - left).abs() << step < ACCUMULATOR_LIMIT).all()):
            return step, knots.to(torch.int32)
    return None


def reals(x: QParams) -> Tensor:
    """What each code stands for: the float32 number that dequantize gives, as float64."""
    return x.dequantize(torch.arange(x.qmin, x.qmax + 1)).double()


def _numbers(values: Tensor) -> Tensor:
    """`values` of neighbouring codes, that of the nearest in place of what is no number; 0 where none is one."""
    known = (~values.isnan()).nonzero().flatten()
    if len(known) in (0, len(values)):
        return torch.nan_to_num(values, nan=0.0, posinf=INFINITY, neginf=-INFINITY)
    places = torch.arange(len(values))
    after = torch.searchsorted(known, places).clamp(max=len(known) - 1)
    before = (after - 1).clamp(min=0)
    is_before = (places - known[before]).abs() < (known[after] - places).abs()
    return values[torch.where(is_before, known[before], known[after])]


def reach(x: QParams) -> int:
    """The largest absolute value of x - zero point."""
    return max(x.qmax - x.one_zero_point, x.one_zero_point - x.qmin)


def _code(real: float, scale: float, zero: int, qparams: QParams) -> int:
    if real in (INFINITY, -INFINITY):
        return qparams.qmax if real > 0 else qparams.qmin
    return max(qparams.qmin, min(qparams.qmax, round(real / scale) + zero))
