"""Put an observer after every value whose range calibration must find.

%c = conv2d(%x, ...)   =>   %c = conv2d(%x, ...); %c_observer = observe(%c)

The observers of scores and masks look at what softmax can see of them (`fxquant.scores`), those of functions with poles
(log 0, 1 / 0) at what is finite.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Set
from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import Tensor, fx

from fxquant import observers
from fxquant.graph import inherit, reads_values
from fxquant.ops.table import RangeRule
from fxquant.passmanager import Pass
from fxquant.plan import fused, is_integer, is_quantized, record, required_plan
from fxquant.scores import Finite, Rows, masks, score_axes
from fxquant.source import describe
from fxquant.stage import Stage


@dataclass(frozen=True)
class InsertObservers(Pass):
    """Put an observer after every value whose range calibration must find."""

    gives: ClassVar[Stage] = Stage.OBSERVED

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Values that share a range, or whose range mathematics knows, get none; neither do constants."""
        axes, hiding = score_axes(module.graph), masks(module.graph)
        for node in list(module.graph.nodes):
            if not needs_observer(node):
                continue
            name = f"{node.name}_observer"
            scheme = required_plan(node).activation
            if node in hiding and not is_integer(node):
                # Two values far apart: there is nothing in between that a histogram could weigh.
                scheme = scheme.with_(observer="minmax")
            observer = observers.make(scheme, describe(node))
            observer.look = _look(node, axes, hiding)
            module.add_submodule(name, observer)
            with module.graph.inserting_after(node):
                observed = module.graph.call_module(name, (node,))
            observed.meta["val"] = node.meta["val"]
            inherit(observed, node)
            node.replace_all_uses_with(
                observed, delete_user_cb=lambda user, keep=observed: user is not keep and reads_values(user)
            )
        return module


@dataclass(frozen=True)
class Regular:
    """How the observer of a function with poles looks at its values."""

    def __call__(self, x: Tensor) -> Tensor:
        """`x` with 0, which every range has, in place of what is infinite; what is no number is told as ever."""
        return torch.where(x.isinf(), torch.zeros_like(x), x)


def _look(node: fx.Node, axes: Mapping[fx.Node, int], hiding: Set[fx.Node]) -> Callable[[Tensor], Tensor] | None:
    """How the observer of a value looks at it, where not all of it counts."""
    if node in axes:
        return Rows(axes[node])
    if node in hiding:
        return Finite()
    parts = [record(part) for part in fused(node)]
    return Regular() if any(part is not None and part.has_poles for part in parts) else None


def needs_observer(node: fx.Node) -> bool:
    """Whether the value's own range must be observed."""
    if node.op == "get_attr" or not is_quantized(node):
        return False
    found = record(node)
    return found is None or found.range in (RangeRule.OBSERVED, RangeRule.BOUNDED, RangeRule.CARRIED)
