"""What training needs of constants that passes computed from others: the tensors that they came from, and their names.

Integers are made of float weights, and a layer's weights absorb a batch norm. A graph that is trained starts from what
was there before (`fxquant.training`), so the passes that replace it write it down on the nodes.
"""

from __future__ import annotations

from dataclasses import dataclass

from torch import Tensor, fx

from fxquant.graph import constant_value

WEIGHT, NORM = "fxq.kept_weight", "fxq.kept_norm"
# On a graph: the names of constants that are parameters of the model.
PARAMETERS = "fxq.parameters"
# On a graph: by layers' names, masks that weights were multiplied by.
MASKS = "fxq.masks"


@dataclass(frozen=True, eq=False)
class Kept:
    """A constant as it was: its name in the graph, and the float32 tensor."""

    name: str
    value: Tensor


@dataclass(frozen=True, eq=False)
class KeptNorm:
    """A layer and the batch norm that was folded into it; `into` names the folded weight.

    `weight` is the layer's, with `groups` where its channels are on axis 1 (a transposed convolution), else 0.
    `momentum` is that of the running statistics.
    """

    into: str
    weight: Kept
    bias: Kept | None
    gamma: Kept | None
    beta: Kept | None
    mean: Kept
    var: Kept
    eps: float
    momentum: float
    groups: int


def keep(module: fx.GraphModule, node: object) -> Kept | None:
    """The constant behind an argument; None where there is no argument."""
    return Kept(str(node.target), constant_value(module, node)) if isinstance(node, fx.Node) else None
