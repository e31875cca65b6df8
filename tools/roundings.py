"""Where the primitives that round keep their multipliers: read by the report and by the viewer."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, NamedTuple

import torch
from torch import Tensor, fx

from fxquant.arguments import int_arg, node_arg
from fxquant.graph import constant_value

fxq = torch.ops.fxq

# By primitive: positions of the operand, its multiplier and its shift among a call's arguments.
_PLACES: dict[Any, tuple[tuple[int, int, int], ...]] = {
    fxq.requantize.default: ((0, 1, 2),),
    fxq.add.default: ((0, 1, 2), (4, 5, 6)),
}


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
    for operand, multiplier, places in _PLACES.get(node.target, ()):
        constant, shift = node_arg(node, multiplier), int_arg(node, places)
        yield Rounding(node_arg(node, operand), constant_value(module, constant), shift)
