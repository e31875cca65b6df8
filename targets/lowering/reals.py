"""Float operations that are defined to the bit: curves, softmax and norms of rows, see `fxquant.primitives.real`."""

from __future__ import annotations

from collections.abc import Callable, Hashable
from functools import partial

import torch
from torch import fx

from fxquant.arguments import argument, float_arg
from fxquant.names import label_of
from fxquant.targets.buffers import Tensor
from fxquant.targets.kernels.contract.kernel import Kernel
from fxquant.targets.kernels.rows.reals import RealNorm, curve_kernel, is_dense, norm_kernel, softmax_kernel
from fxquant.targets.lowering.lowering import Lowering, lowers
from fxquant.targets.program import Overwrite

fxq = torch.ops.fxq


@lowers(fxq.real_curve.default)
def lower_curve(ctx: Lowering, node: fx.Node) -> None:
    """In the order of the operand."""
    x, function = ctx.operand(node, "x"), str(argument(node, "function"))
    out = ctx.result(node, x)
    if not is_dense(x.spec, out.spec):
        x, out = _rows(ctx, node), ctx.ordered(node)
    build = partial(curve_kernel, x.spec, out.spec, function)
    _place(ctx, node, "real_curve", function, build, [x], out)


@lowers(fxq.real_softmax.default)
def lower_softmax(ctx: Lowering, node: fx.Node) -> None:
    """Row by row."""
    x, out = _rows(ctx, node), ctx.ordered(node)
    _place(ctx, node, "real_softmax", (), partial(softmax_kernel, x.spec, out.spec), [x], out)


@lowers(fxq.real_norm.default)
def lower_norm(ctx: Lowering, node: fx.Node) -> None:
    """Row by row."""
    x, out = _rows(ctx, node), ctx.ordered(node)
    affine = [a for a in (argument(node, name) for name in ("weight", "bias")) if isinstance(a, fx.Node)]
    has = [isinstance(argument(node, name), fx.Node) for name in ("weight", "bias")]
    norm = RealNorm(float_arg(node, "epsilon"), has[0], has[1], bool(argument(node, "about_zero")))
    build = partial(norm_kernel, x.spec, out.spec, norm)
    _place(ctx, node, "real_norm", norm, build, [x, *map(ctx.tensor, affine)], out)


def _place(
    ctx: Lowering,
    node: fx.Node,
    name: str,
    key: Hashable,
    build: Callable[[bool], Kernel],
    inputs: list[Tensor],
    out: Tensor,
) -> None:
    """Append the kernel; it notes the largest magnitudes where a scale of run time is made of them."""
    peaks = out.shape[0] == 1 and any(user.target is fxq.dynamic_scale.default for user in node.users)
    symbol = ctx.program.symbol(name, (name, key, inputs[0].spec, out.spec, peaks), partial(build, peaks))
    noted = []
    if peaks:
        ctx.peaks[node] = ctx.new_peaks(node, symbol)
        noted = [ctx.peaks[node]]
    free = [Overwrite(inputs[0])] if is_dense(inputs[0].spec, out.spec) and name == "real_curve" else []
    ctx.program.call(symbol, [*inputs, *noted, out], out, label_of(node), free, kernel=name)


def _rows(ctx: Lowering, node: fx.Node) -> Tensor:
    """The operand with its last axis contiguous."""
    x = ctx.operand(node, "x")
    return x if x.spec.strides[-1] == 1 or x.shape[-1] == 1 else ctx.dense(x, node)
