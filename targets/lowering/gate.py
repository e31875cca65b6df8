"""The product of an image and a factor for each of its channels, with its rounding, where a kernel does both."""

from __future__ import annotations

import numpy as np
from torch import fx

from fxquant.arguments import int_arg, int_args, node_arg
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.kernels.contract.epilogue import Requantization
from fxquant.targets.kernels.contract.operations import Gate
from fxquant.targets.lowering.lowering import Lowering
from fxquant.targets.lowering.rounding import Rounding, epilogue_of


def lower_gate(ctx: Lowering, node: fx.Node, rounding: fx.Node, out: Tensor) -> bool:
    """Whether the mul and the requantize that alone reads it are such a product, which was appended for each sample."""
    sides = [(ctx.operand(node, side), int_arg(node, f"{side}_zero")) for side in ("a", "b")]
    (x, zero), (gate, gate_zero) = sides if sides[0][0].shape == out.shape else sides[::-1]
    if {len(t.shape) for t in (x, gate, out)} != {4} or gate.shape[0] != x.shape[0]:
        return False
    first = x.sample(0).spec, gate.sample(0).spec, out.sample(0).spec
    zero_point, low, high = int_args(rounding, "zero_point", "qmin", "qmax")
    numbers = Requantization(ctx.array(node_arg(rounding, "multiplier")).reshape(-1), zero_point, low, high)
    problem = Gate(*first, epilogue_of(Rounding(rounding, numbers, int_arg(rounding, "shift")), first[2]))
    choice = ctx.kernels.find("gate", problem, numbers)
    if choice is None:
        return False
    constants = [ctx.packed(array, f"{node.name}_{name}") for name, array in choice.constants.items()]
    zeros = ctx.packed(np.array([zero + x.spec.bias, gate_zero + gate.spec.bias], np.int32), f"{node.name}_zeros")
    for n in range(x.shape[0]):
        inputs: list[Tensor | Buffer] = [x.sample(n), gate.sample(n), zeros, *constants]
        ctx.kernel(choice.name, problem, choice.build, inputs, out.sample(n), node)
    return True
