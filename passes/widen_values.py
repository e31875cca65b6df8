"""Keep values in 16 bits between integer operations; products read 8 bits of them, or all.

    %a = add(...); %a_observer = observe(%a)   # 8 bits        =>  %a = add(...); %a_observer = observe(%a)   # 16 bits
    %c = conv2d(%a_observer, ...)                                  %n = alias(%a_observer); %n_observer = observe(%n)
    %s = add(%a_observer, %c)                                      %c = conv2d(%n_observer, ...)        # 8 bits
                                                                   %s = add(%a_observer, %c)

Residual streams with outliers, what stands between a concat, a norm and a PReLU, what a norm or GELU reads: there every
rounding to 8 bits is an error of its own, that no sum of many products averages. No data are needed: twice what
observers have seen is the range of 16 bits, and the range of before that of the 8 bits that products read.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import fx

from fxquant import observers
from fxquant.errors import UnknownNameError
from fxquant.graph import clean
from fxquant.names import did_you_mean, inherit_name
from fxquant.observers.base import Observer
from fxquant.passes.narrow_operands import is_product, narrowed, taps, widened
from fxquant.passes.propagate_ranges import SET, PropagateRanges
from fxquant.passmanager import Pass, Pipeline
from fxquant.plan import plan_of, required_range
from fxquant.scheme import Scheme
from fxquant.stage import Stage

# Sums of so many products of 16 and 8 bits stay below 2^31, whatever the weights: 2^16 * 127 * 256.
MOST_TAPS = 256
# How much further than what was seen a range of 16 bits reaches: one bit less, and nothing new is clipped.
ROOM = 2.0


@dataclass(frozen=True)
class WidenValues(Pass):
    """Keep values in 16 bits between integer operations; products read 8 bits of them, or all.

    `values` are names of values, each with the reason that its range is to tell; values that share a range are widened
    together. Of those in `whole` products read all 16 bits, up to MOST_TAPS of them at a time.
    """

    needs: ClassVar[Stage] = Stage.OBSERVED
    gives: ClassVar[Stage] = Stage.OBSERVED
    values: Mapping[str, str]
    whole: frozenset[str] = field(default_factory=frozenset)

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: an observed value. Case 2: one whose range mathematics knows. Case 3: the edges into products."""
        ranged = {node.name: node for node in Pipeline((PropagateRanges(),))(module).graph.nodes}
        sets = {name: str(node.meta[SET]) for name, node in ranged.items() if SET in node.meta}
        known = set(sets.values())
        for name in self.values:
            if name not in known:
                raise UnknownNameError(f"no value called {name!r} begins a range{did_you_mean(name, sorted(known))}")
        for node in list(module.graph.nodes):
            first = sets.get(node.name)
            if first is not None and first in self.values:
                self._widen(module, node, ranged[node.name], first)
        return clean(module)

    def _widen(self, module: fx.GraphModule, node: fx.Node, ranged: fx.Node, first: str) -> None:
        found, plan = required_range(ranged), plan_of(node)
        scheme = Scheme(found.qparams.qmin, found.qparams.qmax)
        if plan is not None:
            scheme = plan.activation
            node.meta["fxq.plan"] = replace(plan, activation=widened(scheme))
            node.meta["fxq.wide"] = self.values[first]
        if node.op == "call_module":
            old = module.get_submodule(str(node.target))
            assert isinstance(old, Observer)
            scheme = old.scheme
            module.set_submodule(str(node.target), _seen(widened(scheme), old, ROOM * old.low, ROOM * old.high))
        products = [user for user in node.users if is_product(user) and not self._reads_whole(user, first)]
        if products:
            low, high = (torch.tensor([end], dtype=torch.float32) for end in (found.low, found.high))
            alias = narrowed(node, scheme.with_(observer="minmax"), products)
            _observe(module, alias, _seen(scheme.with_(observer="minmax"), None, low, high))

    def _reads_whole(self, product: fx.Node, first: str) -> bool:
        return first in self.whole and 0 < taps(product) <= MOST_TAPS


def _seen(scheme: Scheme, old: Observer | None, low: torch.Tensor, high: torch.Tensor) -> Observer:
    """An observer of extremes that has seen these."""
    made = observers.make(scheme, "" if old is None else old.where)
    made.load_state({"low": low.detach().clone(), "high": high.detach().clone(),
                     "seen": torch.ones((), dtype=torch.int64) if old is None else old.seen.clone()})  # fmt: skip
    made.look = None if old is None else old.look
    made.enabled = True if old is None else old.enabled
    return made


def _observe(module: fx.GraphModule, node: fx.Node, observer: Observer) -> None:
    if any(user.op == "call_module" for user in node.users):
        return
    name = f"{node.name}_observer"
    module.add_submodule(name, observer)
    with module.graph.inserting_after(node):
        observed = module.graph.call_module(name, (node,))
    observed.meta["val"] = node.meta["val"]
    inherit_name(observed, node)
    node.replace_all_uses_with(observed, delete_user_cb=lambda user: user is not observed)
