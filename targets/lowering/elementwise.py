"""Element-wise primitives: the borders between real and integer, rescaling, addition, multiplication, lookup."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.arguments import float_arg, int_arg, int_args, node_arg
from fxquant.primitives.rescale import CURVE_FRACTION
from fxquant.targets.buffers import SIGNAL, Tensor
from fxquant.targets.groups import Group
from fxquant.targets.kernels.contract.operations import Pixels, Rescale
from fxquant.targets.kernels.words.numbers import clamp, product, rounded, wide
from fxquant.targets.lowering.gate import lower_gate
from fxquant.targets.lowering.lowering import Lowering, lowers, lowers_groups
from fxquant.targets.program import Overwrite
from fxquant.targets.tvm_api import I, T, tirx

fxq = torch.ops.fxq


@lowers(fxq.quantize.default)
def quantize(ctx: Lowering, node: fx.Node) -> None:
    """Real numbers to integers; NaN becomes the zero point."""
    x, scale = ctx.operand(node, "x"), _scale(ctx, node)
    n = ctx.numbers(node, *int_args(node, "zero_point", "qmin", "qmax"))
    out = integer_result(ctx, node, x)

    problem = Pixels(x.sample(0).spec, out.sample(0).spec) if len(x.shape) == 4 else None
    if problem is not None and (choice := ctx.kernels.find("pixels", problem)) is not None:
        for sample in range(x.shape[0]):
            inputs = [x.sample(sample), scale, n]
            ctx.kernel(choice.name, problem, choice.build, inputs, out.sample(sample), node, kernel="quantize")
        return

    def body(t: Any, i: Any) -> Any:
        # Not x == x, which TVM's simplifier takes for true.
        steps = tirx.Select(tirx.isnan(t[0](*i)), tirx.const(0.0, "float32"), T.nearbyint(t[0](*i) / t[1](0)))
        low, high = (T.cast(t[2](k) - t[2](0), "float32") for k in (1, 2))
        return T.cast(clamp(steps, low, high), "int32") + t[2](0)

    ctx.map("quantize", out, [x, scale, n], body, node)


def integer_result(ctx: Lowering, node: fx.Node, x: Tensor) -> Tensor:
    """Memory for the integers of `x`: as convolutions want them, or in the order of `x`."""
    signal = len(x.shape) == 3 and any(user.target is fxq.conv.default for user in node.users)
    return ctx.ordered(node, *SIGNAL) if signal else ctx.result(node, None if len(x.shape) == 4 else x)


@lowers(fxq.dequantize.default)
def dequantize(ctx: Lowering, node: fx.Node) -> None:
    """Integers to real numbers."""
    x, scale = ctx.operand(node, "q"), _scale(ctx, node)
    n = ctx.numbers(node, int_arg(node, "zero_point"))
    out = ctx.result(node, x)
    ctx.map("dequantize", out, [x, scale, n], lambda t, i: T.cast(t[0](*i) - t[2](0), "float32") * t[1](0), node)


def _scale(ctx: Lowering, node: fx.Node) -> Tensor:
    return ctx.constant(np.array([float_arg(node, "scale")], np.float32), f"{node.name}_scale")


@lowers(fxq.requantize.default)
def requantize(ctx: Lowering, node: fx.Node) -> None:
    """Element by element."""
    x, multiplier = ctx.operand(node, "x"), ctx.operand(node, "multiplier")
    shift = int_arg(node, "shift")
    n = ctx.numbers(node, *int_args(node, "zero_in", "zero_point", "qmin", "qmax"))
    out = ctx.result(node, x)
    if _rescaled(ctx, node, [x], [multiplier], n, out, (shift,)):
        return

    def body(t: Any, i: Any) -> Any:
        total = product(t[0](*i) - t[2](0), t[1](*i), shift)
        return clamp(rounded(total) + t[2](1), t[2](2), t[2](3))

    ctx.map("requantize", out, [x, multiplier, n], body, node, key=shift, weight=3, overwrites=[x])


def _rescaled(
    ctx: Lowering,
    node: fx.Node,
    inputs: list[Tensor],
    multipliers: list[Tensor],
    numbers: Tensor,
    out: Tensor,
    shifts: tuple[int, ...],
) -> bool:
    """Whether there is a kernel for tensors that lie alike, which was appended."""
    low, high = int_args(node, "qmin", "qmax")
    problem = Rescale(tuple(x.spec for x in inputs), out.spec, shifts[0], out.spec.is_whole(low, high))
    has_one = all(m.spec.size == 1 for m in multipliers) and len(set(shifts)) == 1
    choice = ctx.kernels.find("rescale", problem) if has_one else None
    if choice is None:
        return False
    arguments = [*(tensor for pair in zip(inputs, multipliers, strict=True) for tensor in pair), numbers]
    free, name = [Overwrite(t) for t in inputs], "add" if len(inputs) == 2 else "requantize"
    ctx.kernel(choice.name, problem, choice.build, arguments, out, node, free, kernel=name)
    return True


@lowers(fxq.add.default)
def add(ctx: Lowering, node: fx.Node) -> None:
    """Element by element with one rounding."""
    a, ma, b, mb = (ctx.operand(node, p) for p in ("a", "a_multiplier", "b", "b_multiplier"))
    shifts = int_args(node, "a_shift", "b_shift")
    n = ctx.numbers(node, *int_args(node, "a_zero", "b_zero", "zero_point", "qmin", "qmax"))
    out = ctx.result(node, a if a.shape == tuple(ctx.fake[node].shape) else b)
    if _rescaled(ctx, node, [a, b], [ma, mb], n, out, tuple(shifts)):
        return

    def body(t: Any, i: Any) -> Any:
        left = product(t[0](*i) - t[4](0), t[1](*i), shifts[0])
        right = product(t[2](*i) - t[4](1), t[3](*i), shifts[1])
        return clamp(rounded(left + right) + t[4](2), t[4](3), t[4](4))

    ctx.map("add", out, [a, ma, b, mb, n], body, node, key=tuple(shifts), weight=5, overwrites=[a, b])


@lowers(fxq.mul.default)
def mul(ctx: Lowering, node: fx.Node) -> None:
    """A product of two tensors, as s32."""
    a, b = ctx.operand(node, "a"), ctx.operand(node, "b")
    n, drop = ctx.numbers(node, *int_args(node, "a_zero", "b_zero")), int_arg(node, "drop")
    out = ctx.result(node, a if a.shape == tuple(ctx.fake[node].shape) else b)

    def body(t: Any, i: Any) -> Any:
        return _dropped(t[0](*i) - t[2](0), t[1](*i) - t[2](1), drop)

    ctx.map("mul", out, [a, b, n], body, node, key=drop)


@lowers_groups(fxq.mul.default)
def rounded_mul(ctx: Lowering, group: Group) -> None:
    """A product of two tensors, and its rounding."""
    node, rounding = group.nodes
    a, b = ctx.operand(node, "a"), ctx.operand(node, "b")
    shift, drop = int_arg(rounding, "shift"), int_arg(node, "drop")
    out = ctx.result(rounding, a if a.shape == tuple(ctx.fake[node].shape) else b)
    if not drop and lower_gate(ctx, node, rounding, out):
        return
    n = ctx.numbers(node, *int_args(node, "a_zero", "b_zero"), *int_args(rounding, "zero_point", "qmin", "qmax"))

    def body(t: Any, i: Any) -> Any:
        total = product(_dropped(t[0](*i) - t[3](0), t[1](*i) - t[3](1), drop), t[2](*i), shift)
        return clamp(rounded(total) + t[3](2), t[3](3), t[3](4))

    inputs, key = [a, b, ctx.operand(rounding, "multiplier"), n], (shift, drop)
    ctx.map("mul_requantize", out, inputs, body, node, key=key, weight=4, overwrites=[a, b])


def _dropped(left: Any, right: Any, drop: int) -> Any:
    """The product of two s32 values, rounded to what 32 bits hold of it."""
    if not drop:
        return left * right
    total = wide(left) * wide(right) + tirx.const(1 << drop >> 1, "int64")
    return T.cast(I.shift_right(total, tirx.const(drop, "int64")), "int32")


@lowers(fxq.lookup.default)
def lookup(ctx: Lowering, node: fx.Node) -> None:
    """table[x - low], whatever x holds: a short table of 16-bit values is read at its ends beyond them."""
    x, low = ctx.operand(node, "x"), int_arg(node, "low")
    table, low = ctx.whole_table(node_arg(node, "table"), x, low)
    out, last = ctx.result(node, x), table.spec.size - 1

    def body(t: Any, i: Any) -> Any:
        place = t[0](*i) - low
        return t[1](place if x.itemsize == 1 else clamp(place, 0, last))

    ctx.map("lookup", out, [x, table], body, node, key=(low, last), weight=2, overwrites=[x])


@lowers(fxq.curve.default)
def curve(ctx: Lowering, node: fx.Node) -> None:
    """Two knots and the line between them, all in 32 bits: the knots were made so."""
    x, (low, step) = ctx.operand(node, "x"), int_args(node, "low", "step")
    knots, n = ctx.operand(node, "knots"), ctx.numbers(node, *int_args(node, "qmin", "qmax"))
    last = (knots.spec.size - 1 << step) - 1
    half = tirx.const(1 << CURVE_FRACTION >> 1, "int32")

    def body(t: Any, i: Any) -> Any:
        place = clamp(t[0](*i) - low, 0, last)
        at = I.shift_right(place, tirx.const(step, "int32"))
        left, share = t[1](at), T.bitwise_and(place, tirx.const((1 << step) - 1, "int32"))
        line = left + I.shift_right((t[1](at + 1) - left) * share, tirx.const(step, "int32"))
        return clamp(I.shift_right(line + half, tirx.const(CURVE_FRACTION, "int32")), t[2](0), t[2](1))

    ctx.map("curve", ctx.result(node, x), [x, knots, n], body, node, key=(low, step), weight=4, overwrites=[x])
