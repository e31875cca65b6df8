"""Matrix products of activations."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxquant.arguments import int_arg, int_args
from fxquant.names import label_of
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.kernels.contract.epilogue import Requantization
from fxquant.targets.kernels.contract.operations import Matmul
from fxquant.targets.lowering.convolution import of_the_run
from fxquant.targets.lowering.lowering import Lowering
from fxquant.targets.lowering.rounding import Rounding, epilogue_of


def multiply(ctx: Lowering, node: fx.Node, rounding: Rounding) -> None:
    """A batched product with what rounds it."""
    batch = ctx.fake[node].shape[:-2]
    a, b = (ctx.operand(node, p).view(lambda t: t.expand(*batch, *t.shape[-2:])) for p in ("a", "b"))
    out = ctx.ordered(rounding.node)
    form, about_zero = epilogue_of(rounding, out.spec), int_arg(node, "a_zero") == 0
    problem = Matmul(a.spec, b.spec, out.spec, form, int_arg(node, "drop"), about_zero)
    numbers = rounding.real.numbers if rounding.real else rounding.numbers or Requantization(0, 0, 0, 0)
    choice = ctx.kernels.get("matmul", problem, numbers)
    symbol = ctx.program.symbol(choice.name, (choice.name, problem), choice.build)
    packed = {name: ctx.packed(array, f"{node.name}_{name}") for name, array in choice.constants.items()}
    zeros = ctx.numbers(node, *int_args(node, "a_zero", "b_zero"))
    facts: dict[str, Any] = {"macs": out.spec.size * a.shape[-1], "kernel": "matmul"}
    inputs: list[Tensor | Buffer] = [a, b, zeros, *packed.values(), *of_the_run(ctx, rounding, symbol)]
    ctx.program.call(symbol, [*inputs, out], out, label_of(node), packed=packed, **facts)
