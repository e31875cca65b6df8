"""Element by element: one of two integers, comparisons, truths, a factor for each sign, and quotients."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch import fx

from fxquant.arguments import argument, int_arg, int_args
from fxquant.targets.buffers import Tensor
from fxquant.targets.kernels.words.numbers import clamp, product, rounded
from fxquant.targets.lowering.lowering import LOWERINGS, Lowering, lowers
from fxquant.targets.tvm_api import I, T, tirx

aten, fxq = torch.ops.aten, torch.ops.fxq

_EXTREMES: dict[Any, Callable[[Any, Any], Any]] = {aten.maximum.default: I.max, aten.minimum.default: I.min}


@lowers(*_EXTREMES)
def extreme(ctx: Lowering, node: fx.Node) -> None:
    """The larger or the smaller of two integers of one scale."""
    a, b = ctx.operand(node, 0), ctx.operand(node, 1)
    choose = _EXTREMES[node.target]
    ctx.map(
        "extreme",
        _result(ctx, node, a, b),
        [a, b],
        lambda t, i: choose(t[0](*i), t[1](*i)),
        node,
        key=str(node.target),
        overwrites=[a, b],
    )


@lowers(aten.where.self)
def where(ctx: Lowering, node: fx.Node) -> None:
    """One of two integers of one scale."""
    condition, a, b = (ctx.operand(node, name) for name in ("condition", "self", "other"))
    out = _result(ctx, node, a, b, condition)
    ctx.map(
        "where",
        out,
        [condition, a, b],
        lambda t, i: tirx.Select(t[0](*i), t[1](*i), t[2](*i)),
        node,
        overwrites=[a, b],
    )


# Of truths; of whole numbers they are float code's.
_CONNECTIVES: dict[Any, Callable[..., Any]] = {
    aten.logical_not.default: tirx.Not,
    aten.bitwise_not.default: tirx.Not,
    aten.logical_and.default: tirx.And,
    aten.bitwise_and.Tensor: tirx.And,
    aten.logical_or.default: tirx.Or,
    aten.bitwise_or.Tensor: tirx.Or,
}


@lowers(*_CONNECTIVES)
def connective(ctx: Lowering, node: fx.Node) -> None:
    """And, or, and not."""
    if any(not isinstance(a, fx.Node) or ctx.fake[a].dtype is not torch.bool for a in node.args):
        LOWERINGS["island"](ctx, node)
        return
    operands, connect = [ctx.operand(node, place) for place in range(len(node.args))], _CONNECTIVES[node.target]
    out = _result(ctx, node, *operands)
    ctx.map("connective", out, operands, lambda t, i: connect(*(x(*i) for x in t)), node, key=str(node.target))


@lowers(fxq.above.default)
def above(ctx: Lowering, node: fx.Node) -> None:
    """Two 64-bit products are compared."""
    a, ma, b, mb = (ctx.operand(node, name) for name in ("a", "a_multiplier", "b", "b_multiplier"))
    shift, equal = int_arg(node, "shift"), bool(argument(node, "equal"))
    n = ctx.numbers(node, *int_args(node, "a_zero", "b_zero"))

    def body(t: Any, i: Any) -> Any:
        left, right = (product(t[p](*i) - t[4](p // 2), t[p + 1](*i), shift) for p in (0, 2))
        return right <= left if equal else right < left

    ctx.map("above", _result(ctx, node, a, b), [a, ma, b, mb, n], body, node, key=(shift, equal), weight=3)


@lowers(fxq.prelu.default)
def prelu(ctx: Lowering, node: fx.Node) -> None:
    """A multiplier for each sign, and the rounding."""
    x, above, below = (ctx.operand(node, name) for name in ("x", "above", "below"))
    shift = int_arg(node, "shift")
    n = ctx.numbers(node, *int_args(node, "zero_in", "zero_point", "qmin", "qmax"))

    def body(t: Any, i: Any) -> Any:
        centred = t[0](*i) - t[3](0)
        factor = tirx.Select(centred < 0, t[2](*i), t[1](*i))
        return clamp(rounded(product(centred, factor, shift)) + t[3](1), t[3](2), t[3](3))

    ctx.map("prelu", ctx.result(node, x), [x, above, below, n], body, node, key=shift, weight=4, overwrites=[x])


@lowers(fxq.div.default)
def div(ctx: Lowering, node: fx.Node) -> None:
    """A 64-bit division, and the rounding."""
    a, b, multiplier = (ctx.operand(node, name) for name in ("a", "b", "multiplier"))
    shift = int_arg(node, "shift")
    n = ctx.numbers(node, *int_args(node, "a_zero", "b_zero", "zero_point", "qmin", "qmax"))

    def body(t: Any, i: Any) -> Any:
        divisor = t[1](*i) - t[3](1)
        divisor = T.cast(tirx.Select(divisor == 0, tirx.const(1, "int32"), divisor), "int64")
        quotient = tirx.truncdiv(product(t[0](*i) - t[3](0), t[2](*i), shift), divisor)
        return clamp(rounded(quotient) + t[3](2), t[3](3), t[3](4))

    out = _result(ctx, node, a, b)
    ctx.map("div", out, [a, b, multiplier, n], body, node, key=shift, weight=20, overwrites=[a, b])


def _result(ctx: Lowering, node: fx.Node, *operands: Tensor) -> Tensor:
    """Memory in the order of the first operand that is as large as the result."""
    size = tuple(ctx.fake[node].shape)
    return ctx.result(node, next((x for x in operands if x.shape == size), None))
