"""Put an observer after every value whose range calibration must find.

%c = conv2d(%x, ...)   =>   %c = conv2d(%x, ...); %c_observer = observe(%c)

The observers of scores and masks look at what softmax can see of them: see `fxquant.scores`.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

from torch import fx

from fxquant import observers
from fxquant.graph import inherit, reads_values
from fxquant.ops.table import RangeRule
from fxquant.passmanager import Pass
from fxquant.plan import is_integer, is_quantized, record, required_plan
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
            observer.look = Rows(axes[node]) if node in axes else Finite() if node in hiding else None
            module.add_submodule(name, observer)
            with module.graph.inserting_after(node):
                observed = module.graph.call_module(name, (node,))
            observed.meta["val"] = node.meta["val"]
            inherit(observed, node)
            node.replace_all_uses_with(
                observed, delete_user_cb=lambda user, keep=observed: user is not keep and reads_values(user)
            )
        return module


def needs_observer(node: fx.Node) -> bool:
    """Whether the value's own range must be observed."""
    if node.op == "get_attr" or not is_quantized(node):
        return False
    found = record(node)
    return found is None or found.range in (RangeRule.OBSERVED, RangeRule.BOUNDED)
