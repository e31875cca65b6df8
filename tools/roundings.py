"""Where the primitives that round keep their multipliers: read by the report and by the viewer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from fxquant.arguments import argument, int_arg, node_arg
from fxquant.graph import constant_value
from fxquant.primitives import FACTS

fxq = torch.ops.fxq


class Rounding(NamedTuple):
    """One operand's: real factor = multiplier * 2^(shift - 32), by channel."""

    operand: Any
    multiplier: Tensor
    shift: int

    @property
    def factor(self) -> Tensor:
        """The real factors, float64, flat."""
        return self.multiplier.double().reshape(-1) * 2.0 ** (self.shift - 32)


def roundings(module: fx.GraphModule, node: fx.Node) -> Iterator[Rounding]:
    """Those of a call, in the order of its operands; none for a call that does not round."""
    facts = FACTS.get(node.target)
    for operand, multiplier, shift in facts.rounds if facts else ():
        factors = constant_value(module, node_arg(node, multiplier))
        yield Rounding(argument(node, operand), factors, int_arg(node, shift))
