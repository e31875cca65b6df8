"""What follows a product whose operand was quantized by a range of run time, and is computed with it.

%y = rescale_real(conv(...)); %a = add(%y, %x); %r = relu(%a); %s = dynamic_scale(%r)
    =>   one kernel that stores %r in float32, and notes its largest magnitudes for %s
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from fxquant.arguments import node_arg
from fxquant.graph import is_float
from fxquant.ops.activation import clamp_bounds
from fxquant.targets.buffers import Tensor
from fxquant.targets.kernels.contract.epilogue import RealNumbers
from fxquant.targets.lowering.lowering import Lowering
from fxquant.targets.lowering.rounding import Real, Rounding, is_tiled

aten, fxq = torch.ops.aten, torch.ops.fxq

CLAMPS = (aten.relu.default, aten.relu6.default, aten.hardtanh.default, aten.clamp.default, aten.clamp_min.default)


@dataclass(frozen=True)
class Chain:
    """The nodes after the product, and what its kernel is to do."""

    nodes: tuple[fx.Node, ...]
    rounding: Rounding


def is_real(ctx: Lowering, product: fx.Node) -> bool:
    """Whether the accumulators of a product of one sample go into a chain."""
    if product.target not in (fxq.conv.default, fxq.linear.default, fxq.matmul.default) or not ctx.kernels.takes_real:
        return False
    if product.target is fxq.matmul.default and not is_tiled(ctx, product):
        return False
    return _only_reader(product, fxq.rescale_real.default) is not None and len(ctx.fake[product]) == 1


def real_chain(ctx: Lowering, product: fx.Node) -> Chain | None:
    """The chain that a product goes into, if it does."""
    if not is_real(ctx, product):
        return None
    first = next(iter(product.users))
    nodes, residual, ends = [first], None, (float("-inf"), float("inf"))
    added = None if product.target is fxq.matmul.default else _addition(ctx, first)
    if added is not None:
        residual = added[1]
        nodes.append(added[0])
    clamping = _only_reader(nodes[-1], *CLAMPS)
    if clamping is not None:
        ends = clamp_bounds(clamping)
        nodes.append(clamping)
    last = nodes[-1]
    factor, bias = (ctx.array(node_arg(first, name)) for name in ("factor", "bias"))
    peaks = any(user.target is fxq.dynamic_scale.default for user in last.users)
    real = Real(RealNumbers(factor, bias, *ends), node_arg(first, "scale"), peaks)
    return Chain(tuple(nodes), Rounding(last, residual=residual, real=real))


def _only_reader(node: fx.Node, *targets: object) -> fx.Node | None:
    """The only reader of a value, if it is one of these."""
    users = list(node.users)
    return users[0] if len(users) == 1 and users[0].target in targets else None


def _addition(ctx: Lowering, node: fx.Node) -> tuple[fx.Node, fx.Node] | None:
    """The addition that alone reads `node`, and its other operand, which must be there by then and have its shape."""
    user = _only_reader(node, aten.add.Tensor)
    if user is None or user.kwargs or len(user.args) != 2:
        return None
    others = [a for a in user.args if isinstance(a, fx.Node) and a is not node]
    if len(others) != 1 or not is_float(others[0]) or ctx.fake[others[0]].dtype != torch.float32:
        return None
    same = ctx.fake[others[0]].shape == ctx.fake[node].shape == ctx.fake[user].shape
    return (user, others[0]) if same and others[0] in ctx.tensors else None


def of_the_run(ctx: Lowering, rounding: Rounding, symbol: str) -> list[Tensor]:
    """What a result in float32 takes beside constants: the scale, and where its largest magnitudes go."""
    if rounding.real is None:
        return []
    scale = ctx.tensor(rounding.real.scale)
    if not rounding.real.peaks:
        return [scale]
    ctx.peaks[rounding.node] = ctx.new_peaks(rounding.node, symbol)
    return [scale, ctx.peaks[rounding.node]]
