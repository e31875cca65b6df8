"""Element-wise primitives: the borders between real and integer, rescaling, addition, multiplication, lookup."""

from __future__ import annotations

from typing import Any

import numpy as np
import torch
from torch import fx

from fxquant.targets.kernels.map import clamp, product, rounded, wide
from fxquant.targets.lowering.convolution import round_product
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.lowering.values import Tensor
from fxquant.targets.tvm_api import I, T, tirx

fxq = torch.ops.fxq


def numbers(l: Lowering, node: fx.Node, *values: int) -> Tensor:
    """Run-time constants of a kernel, so that layers of equal shape share code."""
    return l.constant(np.array(values, np.int32), f"{node.name}_numbers")


def ints(node: fx.Node, *positions: int) -> list[int]:
    """Integer arguments of a node."""
    return [int(node.args[p]) for p in positions]  # type: ignore[call-overload]


@lowers(fxq.quantize.default)
def quantize(l: Lowering, node: fx.Node) -> None:
    """Real numbers to integers; NaN becomes the zero point."""
    x = l.tensor(node.args[0])
    scale = l.constant(np.array([node.args[1]], np.float32), f"{node.name}_scale")
    n = numbers(l, node, *ints(node, 2, 3, 4))
    signal = len(x.shape) == 3 and any(user.target is fxq.conv.default for user in node.users)
    out = l.result(node, None if len(x.shape) == 4 else x)
    if signal:
        out = l.allocate(x.shape, l.fake[node].dtype, node.name, order=(0, 2, 1))
        l.tensors[node] = out

    def body(t: Any, i: Any) -> Any:
        # Not x == x, which TVM's simplifier takes for true.
        steps = tirx.Select(tirx.isnan(t[0](*i)), tirx.const(0.0, "float32"), T.nearbyint(t[0](*i) / t[1](0)))
        low, high = (T.cast(t[2](k) - t[2](0), "float32") for k in (1, 2))
        return T.cast(clamp(steps, low, high), "int32") + t[2](0)

    l.map("quantize", out, [x, scale, n], body, node)


@lowers(fxq.dequantize.default)
def dequantize(l: Lowering, node: fx.Node) -> None:
    """Integers to real numbers."""
    x = l.tensor(node.args[0])
    scale = l.constant(np.array([node.args[1]], np.float32), f"{node.name}_scale")
    n = numbers(l, node, *ints(node, 2))
    out = l.result(node, x)
    l.map("dequantize", out, [x, scale, n], lambda t, i: T.cast(t[0](*i) - t[2](0), "float32") * t[1](0), node)


@lowers(fxq.requantize.default)
def requantize(l: Lowering, node: fx.Node) -> None:
    """Into the epilogue of the product before it, or element by element."""
    if round_product(l, node):
        return
    x, multiplier = l.tensor(node.args[0]), l.tensor(node.args[1])
    shift = ints(node, 2)[0]
    n = numbers(l, node, *ints(node, 3, 4, 5, 6))
    out = l.result(node, x)

    def body(t: Any, i: Any) -> Any:
        total = product(t[0](*i) - t[2](0), t[1](*i), shift)
        return clamp(rounded(total) + t[2](1), t[2](2), t[2](3))

    l.map("requantize", out, [x, multiplier, n], body, node, key=shift, weight=3)


@lowers(fxq.add.default)
def add(l: Lowering, node: fx.Node) -> None:
    """Into the epilogue of a product, or element by element with one rounding."""
    if round_product(l, node):
        return
    a, ma, b, mb = (l.tensor(node.args[p]) for p in (0, 1, 4, 5))
    shifts = ints(node, 2, 6)
    n = numbers(l, node, *ints(node, 3, 7, 8, 9, 10))
    out = l.result(node, a if a.shape == tuple(l.fake[node].shape) else b)

    def body(t: Any, i: Any) -> Any:
        left = product(t[0](*i) - t[4](0), t[1](*i), shifts[0])
        right = product(t[2](*i) - t[4](1), t[3](*i), shifts[1])
        return clamp(rounded(left + right) + t[4](2), t[4](3), t[4](4))

    l.map("add", out, [a, ma, b, mb, n], body, node, key=tuple(shifts), weight=5)


@lowers(fxq.mul.default)
def mul(l: Lowering, node: fx.Node) -> None:
    """A product of two tensors, requantized at once where that is all that follows."""
    a, b = l.tensor(node.args[0]), l.tensor(node.args[2])
    zeros = ints(node, 1, 3)
    user = next(iter(node.users))
    like = a if a.shape == tuple(l.fake[node].shape) else b
    if len(node.users) == 1 and user.target is fxq.requantize.default:
        shift = ints(user, 2)[0]
        n = numbers(l, node, *zeros, *ints(user, 4, 5, 6))
        l.lowered.add(user)
        out = l.result(user, like)

        def fused(t: Any, i: Any) -> Any:
            total = product((t[0](*i) - t[3](0)) * (t[1](*i) - t[3](1)), t[2](*i), shift)
            return clamp(rounded(total) + t[3](2), t[3](3), t[3](4))

        l.map("mul_requantize", out, [a, b, l.tensor(user.args[1]), n], fused, node, key=shift, weight=4)
        return
    n = numbers(l, node, *zeros)
    out = l.result(node, like)
    l.map("mul", out, [a, b, n], lambda t, i: (t[0](*i) - t[2](0)) * (t[1](*i) - t[2](1)), node)


@lowers(fxq.lookup.default)
def lookup(l: Lowering, node: fx.Node) -> None:
    """table[x - low]."""
    x, table = l.tensor(node.args[0]), l.tensor(node.args[1])
    low = ints(node, 2)[0]
    out = l.result(node, x)
    l.map("lookup", out, [x, table], lambda t, i: t[1](t[0](*i) - low), node, key=low, weight=2)


__all__ = ["wide"]
