"""The numbers by which a group's kernel completes its accumulators, before they reach memory.

    %acc = fxq.conv(...); %q = fxq.requantize(%acc, ...); %t = fxq.lookup(%q, %table)   =>   one kernel that stores %t
    %y = rescale_real(conv(...)); %a = add(%y, %x); %r = relu(%a); %s = dynamic_scale(%r)
        =>   one kernel that stores %r in float32, and notes its largest magnitudes for %s

Which nodes that are is decided in `fxquant.targets.groups`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.arguments import int_arg, int_args, node_arg
from fxquant.bounds import Bounds
from fxquant.ops.activation import clamp_bounds
from fxquant.targets.groups import CLAMPS, Group, sides
from fxquant.targets.kernels.contract import epilogue as forms
from fxquant.targets.kernels.contract.epilogue import Epilogue, RealNumbers, Requantization
from fxquant.targets.kernels.contract.kernel import TensorSpec
from fxquant.targets.kernels.epilogue import narrow
from fxquant.targets.lowering.lowering import Lowering

fxq = torch.ops.fxq


@dataclass(frozen=True)
class Real:
    """A result in float32: its numbers, the node of the scale, and whether the largest magnitudes are wanted."""

    numbers: RealNumbers
    scale: fx.Node
    peaks: bool


@dataclass(frozen=True)
class Rounding:
    """The node whose value is stored, the epilogue's numbers, and an add's other operand.

    Without `numbers` the result is what `real` says, or else s32 as they are.
    """

    node: fx.Node
    numbers: Requantization | None = None
    shift: int = 0
    residual: fx.Node | None = None
    real: Real | None = None

    @property
    def has_table(self) -> bool:
        """Whether a lookup is fused."""
        return self.numbers is not None and self.numbers.table is not None


def epilogue_of(
    rounding: Rounding, out: TensorSpec, residual: TensorSpec | None = None, narrow_for: Bounds | None = None
) -> Epilogue:
    """What a kernel is compiled with to round so; `narrow_for` bounds the accumulators, where it has a narrow form."""
    numbers = rounding.numbers
    if rounding.real is not None:
        return forms.Real(residual, rounding.real.peaks)
    if numbers is None:
        return forms.Raw()
    return forms.Rounded(
        rounding.shift,
        residual,
        table=rounding.has_table,
        narrow=narrow_for is not None and residual is None and _is_narrow(rounding, out, narrow_for),
        whole=out.is_whole(numbers.low, numbers.high),
    )


def _is_narrow(rounding: Rounding, out: TensorSpec, bounds: Bounds) -> bool:
    numbers = rounding.numbers
    if numbers is None or rounding.shift:
        return False
    return narrow.fits(numbers.multiplier, numbers.zero_point + out.bias, bounds)


def rounding_of(ctx: Lowering, group: Group) -> Rounding:
    """How a group's kernel completes its accumulators."""
    reader, table = group.nodes[1], None
    if reader.target is fxq.rescale_real.default:
        return _real(ctx, group)
    if group.last is not reader:
        table = _held_table(ctx, group.last)
    zero, low, high = int_args(reader, "zero_point", "qmin", "qmax")
    if group.residual is None:
        multiplier, shift = ctx.array(node_arg(reader, "multiplier")).reshape(-1), int_arg(reader, "shift")
        return Rounding(group.last, Requantization(multiplier, zero, low, high, table=table), shift)
    mine, other = sides(reader, group.first)
    shift, other_zero = int_args(reader, "a_shift", f"{other}_zero")
    multiplier, unit = (ctx.array(node_arg(reader, f"{side}_multiplier")).reshape(-1) for side in (mine, other))
    numbers = Requantization(multiplier, zero, low, high, int(unit[0]), shift, other_zero, table=table)
    return Rounding(group.last, numbers, shift, group.residual)


def _held_table(ctx: Lowering, lookup: fx.Node) -> np.ndarray[Any, Any]:
    """The table from what memory holds to what it is to hold."""
    bias, table = ctx.memory.s8_bias, ctx.array(node_arg(lookup, "table"))
    return (table.astype(np.int16) + bias).astype(np.uint8 if bias else np.int8)


def _real(ctx: Lowering, group: Group) -> Rounding:
    """To float32: the additions and clamps of the group, and the largest magnitudes where a scale is made of them."""
    rescale, last = group.nodes[1], group.last
    ends = clamp_bounds(last) if last.target in CLAMPS else (float("-inf"), float("inf"))
    factor, bias = (ctx.array(node_arg(rescale, name)) for name in ("factor", "bias"))
    peaks = any(user.target is fxq.dynamic_scale.default for user in last.users)
    real = Real(RealNumbers(factor, bias, *ends), node_arg(rescale, "scale"), peaks)
    return Rounding(last, residual=group.residual, real=real)
