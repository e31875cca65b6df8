"""What follows a product and is computed with it, before its accumulators reach memory.

    %acc = fxq.conv(...); %q = fxq.requantize(%acc, ...); %t = fxq.lookup(%q, %table)   =>   one kernel that stores %t

A product waits until the operation that rounds it is lowered: a requantize, or an add whose other operand is then
ready. If that is followed by a lookup of its own, the lookup is fused as well.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.arguments import int_arg, int_args, node_arg, nodes_arg
from fxquant.bounds import Bounds
from fxquant.graph import shape
from fxquant.primitives import primitives_with
from fxquant.targets.buffers import dtype_name
from fxquant.targets.kernels.contract import epilogue as forms
from fxquant.targets.kernels.contract.epilogue import RESIDUAL_LIMIT, Epilogue, RealNumbers, Requantization
from fxquant.targets.kernels.contract.kernel import TensorSpec
from fxquant.targets.kernels.epilogue import narrow
from fxquant.targets.lowering.lowering import Lowering

fxq = torch.ops.fxq

PRODUCTS = primitives_with(lambda facts: facts.has_weights)


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


def waits(ctx: Lowering, node: fx.Node) -> bool:
    """Whether the accumulators of `node` go into the epilogue of their only reader."""
    return _rounding(ctx, node) is not None


def taken_up(ctx: Lowering, node: fx.Node) -> tuple[fx.Node, Rounding] | None:
    """The waiting product that a requantize or add rounds, and how; None where none waits."""
    for product in node.all_input_nodes:
        rounding = None if product in ctx.tensors else _rounding(ctx, product)
        if rounding is not None:
            return product, _with_table(ctx, rounding)
    return None


def _rounding(ctx: Lowering, product: fx.Node) -> Rounding | None:
    """How the only reader of a product rounds it, if a kernel can do that."""
    has_one = product.target in (fxq.interpolate.default, fxq.matmul.default) and _rounds_by_one(ctx, product)
    if not (product.target in PRODUCTS or has_one) or len(product.users) != 1:
        return None
    (user,) = product.users
    if has_one and torch.int16 in (ctx.fake[product.all_input_nodes[0]].dtype, ctx.fake[user].dtype):
        return None
    if user.target is fxq.requantize.default:
        found = _requantized(ctx, user)
    else:
        found = _added(ctx, user, product) if user.target is fxq.add.default else None
    if found is None or found.numbers is None or not has_one:
        return found
    return found if np.size(found.numbers.multiplier) == 1 else None


def _rounds_by_one(ctx: Lowering, product: fx.Node) -> bool:
    """Whether a kernel with one multiplier for all channels rounds this product."""
    if product.target is fxq.interpolate.default:
        # Between two neighbours along each axis.
        return "resample" in ctx.kernels.rounds and all(shape(index)[1] == 2 for index in nodes_arg(product, "indices"))
    rounds, (user, *_) = ctx.kernels.rounds.get("matmul"), [*product.users, product]
    if rounds is None or user.target is not fxq.requantize.default:
        return False
    return rounds(ctx.fake[product].shape, {dtype_name(ctx.fake[node_arg(product, side)].dtype) for side in ("a", "b")})


def _requantized(ctx: Lowering, node: fx.Node) -> Rounding | None:
    multiplier = _by_channel(ctx, node_arg(node, "x"), ctx.array(node_arg(node, "multiplier")))
    if multiplier is None:
        return None
    zero, low, high = int_args(node, "zero_point", "qmin", "qmax")
    return Rounding(node, Requantization(multiplier, zero, low, high), int_arg(node, "shift"))


def _by_channel(ctx: Lowering, product: fx.Node, multiplier: np.ndarray[Any, Any]) -> np.ndarray[Any, Any] | None:
    """One multiplier, or one for each channel of a product; None for what no epilogue knows: for places, negative."""
    channels = -1 if product.target is fxq.linear.default else 1
    whole = multiplier.reshape([1] * (ctx.fake[product].ndim - multiplier.ndim) + list(multiplier.shape))
    if (multiplier.size > 1 and multiplier.size != whole.shape[channels]) or bool((multiplier < 0).any()):
        return None
    return multiplier.reshape(-1)


def _added(ctx: Lowering, node: fx.Node, product: fx.Node) -> Rounding | None:
    """The product is one operand; the other one must be 8 or 16 bits of its shape, small enough for the epilogue."""
    mine, other = ("a", "b") if node_arg(node, "a") is product else ("b", "a")
    source, shift = node_arg(node, other), int_arg(node, "a_shift")
    others = ctx.array(node_arg(node, f"{other}_multiplier"))
    multiplier = _by_channel(ctx, product, ctx.array(node_arg(node, f"{mine}_multiplier")))
    if (
        multiplier is None
        or source is product
        or source.target in PRODUCTS
        or others.size != 1
        or ctx.fake[source].dtype == torch.int32
    ):
        return None
    shapes = {tuple(ctx.fake[value].shape) for value in (source, node, product)}
    unit, is_wide = int(others.flat[0]) << shift, ctx.fake[source].dtype == torch.int16
    reach, most_shift = (0xFFFF, 14) if is_wide else (255, 22)
    fits = 0 <= unit and 2 * reach * unit + (1 << 41) <= RESIDUAL_LIMIT and shift <= most_shift
    if len(shapes) > 1 or not fits:
        return None
    zero, low, high, other_zero = int_args(node, "zero_point", "qmin", "qmax", f"{other}_zero")
    residual = (int(others.flat[0]), shift, other_zero)
    return Rounding(node, Requantization(multiplier, zero, low, high, *residual), shift, source)


def _with_table(ctx: Lowering, rounding: Rounding) -> Rounding:
    """With the lookup that alone reads the result, if there is one."""
    if rounding.numbers is None or len(rounding.node.users) != 1:
        return rounding
    (user,) = rounding.node.users
    table = _bytes_to_bytes(ctx, rounding.node, user) if user.target is fxq.lookup.default else None
    if table is None:
        return rounding
    return replace(rounding, node=user, numbers=replace(rounding.numbers, table=table))


def _bytes_to_bytes(ctx: Lowering, source: fx.Node, lookup: fx.Node) -> np.ndarray[Any, Any] | None:
    """The table from what memory holds to what it is to hold, where both are s8 values."""
    table = ctx.array(node_arg(lookup, "table"))
    s8 = ctx.fake[source].dtype == ctx.fake[lookup].dtype == torch.int8
    if not s8 or table.size != 256:
        return None
    bias = ctx.memory.s8_bias
    return (table.astype(np.int16) + bias).astype(np.uint8 if bias else np.int8)
