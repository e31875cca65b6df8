"""The product of an image and a factor for each of its channels, with its rounding, on x86."""

from __future__ import annotations

from functools import partial

import numpy as np
from torch import fx

from fxquant.arguments import int_arg, int_args, node_arg
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.kernels.elementwise.gate import gate_kernel, is_gate
from fxquant.targets.kernels.epilogue.x86 import Requantization, pack_epilogue
from fxquant.targets.lowering.lowering import Lowering
from fxquant.targets.lowering.rounding import Rounding, epilogue_of


def lower_gate(ctx: Lowering, node: fx.Node, rounding: fx.Node, out: Tensor) -> bool:
    """Whether the mul and the requantize that alone reads it are such a product, which was appended for each sample."""
    isa, multiplier = ctx.library.isa, ctx.array(node_arg(rounding, 1)).reshape(-1)
    sides = [(ctx.operand(node, position), int_arg(node, position + 1)) for position in (0, 2)]
    (x, zero), (gate, gate_zero) = sides if sides[0][0].shape == out.shape else sides[::-1]
    if isa is None or {len(t.shape) for t in (x, gate, out)} != {4} or gate.shape[0] != x.shape[0]:
        return False
    first = x.sample(0).spec, gate.sample(0).spec, out.sample(0).spec
    if not is_gate(*first) or multiplier.size != 1 or multiplier[0] < 0:
        return False
    zero_point, low, high = int_args(rounding, 4, 5, 6)
    numbers = Requantization(multiplier, zero_point, low, high)
    form = epilogue_of(Rounding(rounding, numbers, int_arg(rounding, 2)), first[2])
    packed = pack_epilogue(form, numbers, first[2], x.shape[1])
    constants = [ctx.packed(array, f"{node.name}_{name}") for name, array in packed.items()]
    zeros = ctx.packed(np.array([zero + x.spec.bias, gate_zero + gate.spec.bias], np.int32), f"{node.name}_zeros")
    for n in range(x.shape[0]):
        inputs: list[Tensor | Buffer] = [x.sample(n), gate.sample(n), zeros, *constants]
        build = partial(gate_kernel, *first, form, isa)
        ctx.kernel("gate", (*first, form), build, inputs, out.sample(n), node)
    return True
