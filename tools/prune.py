"""Structured pruning: which channels of a FLOAT graph go, by a share of each layer or to a budget.

Channels that are tied (see `fxquant.channels`) go together; the groups that share a layer are a family, and each family
keeps a multiple of so many. A group's score is its weights' size beside the layer's other channels' ("magnitude"), or
the squared sum of gradients times weights, over batches ("taylor"; Molchanov et al. 2019, "Importance Estimation for
Neural Network Pruning", arXiv 1906.10771). To a budget, the groups go whose score is least for what they save.
"""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, Literal

import torch
from torch import Tensor, fx, nn

from fxquant.channels import Following, Layer, follow
from fxquant.errors import ArgumentError, PruningBudgetError
from fxquant.graph import constant_value
from fxquant.kept import PARAMETERS
from fxquant.passes import Decompose, FoldConstants, RemoveChannels, RemoveIdentities
from fxquant.sensitive import is_depthwise
from fxquant.source import name_of
from fxquant.tools.macs import macs

Data = Iterable[tuple[Any, Any]]
Loss = Callable[[Any, Any], Tensor]
_BUDGETS = ("macs", "weight_bytes")


@dataclass(frozen=True)
class PrunedLayer:
    """Channels, multiply-accumulates of a sample, and bytes of weights (8 bits each), before and after."""

    name: str
    channels: tuple[int, int]
    macs: tuple[int, int]
    weight_bytes: tuple[int, int]
    kept: str | None


@dataclass(frozen=True)
class PruningReport:
    """Per layer what went, and why what stayed had to; its text is a table."""

    layers: tuple[PrunedLayer, ...]

    @property
    def macs(self) -> tuple[int, int]:
        """Multiply-accumulates of all layers that are followed, before and after."""
        return sum(x.macs[0] for x in self.layers), sum(x.macs[1] for x in self.layers)

    @property
    def weight_bytes(self) -> tuple[int, int]:
        """Bytes of their weights at 8 bits, before and after."""
        return sum(x.weight_bytes[0] for x in self.layers), sum(x.weight_bytes[1] for x in self.layers)

    def __str__(self) -> str:
        """A line for each layer, and the sum."""
        lines = [f"{'layer':24} {'channels':>12} {'MACs':>22} {'weight bytes':>18}  kept whole, because"]
        for x in self.layers:
            lines.append(
                f"{x.name:24} {_pair(x.channels):>12} {_pair(x.macs):>22} {_pair(x.weight_bytes):>18}  {x.kept or ''}"
            )
        return "\n".join([*lines, f"{'all':24} {'':12} {_pair(self.macs):>22} {_pair(self.weight_bytes):>18}"])


def _pair(numbers: tuple[int, int]) -> str:
    return f"{numbers[0]} -> {numbers[1]}"


def prune(
    graph: fx.GraphModule,
    amount: float | None = None,
    *,
    budget: Mapping[str, float] | None = None,
    by: Literal["magnitude", "taylor"] = "magnitude",
    data: Data | None = None,
    loss: Loss | None = None,
    multiple: int = 4,
) -> fx.GraphModule:
    """A FLOAT graph with fewer channels; the one that is given stays as it is. `pruning_report` tells what went.

    `amount` is the share of channels that go in each family; or `budget` says what may be left, {"macs": 0.5} as a
    share or {"weight_bytes": 20000} as a number. `by="taylor"` needs `data`, pairs of inputs and labels, and
    `loss(outputs, labels)`. Each family keeps a multiple of `multiple` channels. Weights and biases of the
    result are parameters: it can be trained on. Raises
    ArgumentError, StageError, and PruningBudgetError with the nearest that can be had.
    """
    _require(amount, budget, by, data, loss, multiple)
    plain = graph
    for step in (RemoveIdentities(), Decompose(), FoldConstants()):
        plain = step(plain)
    _as_parameters(plain)
    found = follow(plain)
    choice = _Choice(plain, found, _scores(plain, found, by, data, loss), multiple)
    groups = choice.share(amount) if amount is not None else choice.fit(dict(budget or {}))
    channels = {
        name_of(layer.node): tuple(torch.nonzero(found.removed(layer.rows, groups)).flatten().tolist())
        for layer in found.layers
    }
    pruned = RemoveChannels({name: gone for name, gone in channels.items() if gone})(plain)
    _as_parameters(pruned)
    pruned.meta["fxq.pruning"] = _report(plain, pruned, found)
    return pruned


def pruning_report(pruned: fx.GraphModule) -> PruningReport:
    """What `prune` did to a graph. Raises ArgumentError for one that it did not make."""
    report = pruned.meta.get("fxq.pruning")
    if not isinstance(report, PruningReport):
        raise ArgumentError("this graph was not made by fxquant.prune")
    return report


def _require(amount: Any, budget: Any, by: str, data: Any, loss: Any, multiple: int) -> None:
    if (amount is None) == (budget is None):
        raise ArgumentError("prune takes a share of the channels, amount=0.5, or a budget, budget={'macs': 0.5}")
    if amount is not None and not 0 <= amount < 1:
        raise ArgumentError(f"amount is a share of the channels, from 0 to below 1, not {amount}")
    if budget is not None and (not budget or set(budget) - set(_BUDGETS) or min(budget.values()) <= 0):
        raise ArgumentError(f"a budget says what may be left of {' or '.join(_BUDGETS)}, above 0, not {budget}")
    if by not in ("magnitude", "taylor"):
        raise ArgumentError(f"by is 'magnitude' or 'taylor', not {by!r}")
    if by == "taylor" and (data is None or loss is None):
        raise ArgumentError("by='taylor' needs data=[(inputs, labels), ...] and loss=function(outputs, labels)")
    if multiple < 1:
        raise ArgumentError(f"multiple is 1 or more, not {multiple}")


def _as_parameters(module: fx.GraphModule) -> None:
    """What the model had as parameters, and a graph as buffers, is parameters again."""
    for name in module.meta.get(PARAMETERS, ()):
        owner, _, leaf = name.rpartition(".")
        if name in dict(module.named_buffers()):
            place, value = module.get_submodule(owner), attrgetter(name)(module)
            delattr(place, leaf)
            place.register_parameter(leaf, nn.Parameter(value.detach().clone()))


def _scores(module: fx.GraphModule, found: Following, by: str, data: Data | None, loss: Loss | None) -> Tensor:
    """Of each group, by its root."""
    scores = torch.zeros(len(found.roots), dtype=torch.float64)
    if by == "magnitude":
        counts = torch.zeros_like(scores)
        for layer in found.layers:
            sizes = _rows(layer, constant_value(module, _weight(module, layer))).double().square().sum(1).sqrt()
            roots = found.roots[layer.rows]
            scores.index_add_(0, roots, sizes / sizes.mean().clamp(min=1e-30))
            counts.index_add_(0, roots, torch.ones_like(sizes))
        return scores / counts.clamp(min=1)
    trained = copy.deepcopy(module)
    for inputs, labels in data or ():
        trained.zero_grad()
        assert loss is not None  # _require says so
        loss(trained(*inputs) if isinstance(inputs, (list, tuple)) else trained(inputs), labels).backward()  # type: ignore[no-untyped-call]
        once = torch.zeros_like(scores)
        for layer in found.layers:
            weight = attrgetter(layer.weight)(trained)
            if weight.grad is not None:
                change = _rows(layer, (weight.grad * weight).detach()).double().sum(1)
                once.index_add_(0, found.roots[layer.rows], change)
        scores += once.square()
    return scores


def _rows(layer: Layer, weight: Tensor) -> Tensor:
    """(results, weights of each)."""
    return (weight.transpose(0, 1) if "transpose" in str(layer.node.target) else weight).flatten(1)


def _weight(module: fx.GraphModule, layer: Layer) -> fx.Node:
    nodes: list[fx.Node] = [n for n in module.graph.nodes if n.op == "get_attr" and n.target == layer.weight]
    return nodes[0]


class _Choice:
    """Which groups may go, in steps of `multiple` from each family, the least first."""

    def __init__(self, module: fx.GraphModule, found: Following, scores: Tensor, multiple: int) -> None:
        self.found, self.scores, self.multiple = found, scores, multiple
        self.costs = [
            {"macs": macs(layer.node), "weight_bytes": attrgetter(layer.weight)(module).numel()}
            for layer in found.layers
        ]
        self.families = [sorted(f, key=lambda g: float(scores[g])) for f in _families(found)]

    def share(self, amount: float) -> set[int]:
        gone: set[int] = set()
        for family in self.families:
            left = max(self.multiple, round(len(family) * (1 - amount) / self.multiple) * self.multiple)
            gone.update(family[: max(0, len(family) - left)])
        return self._no_layer_empty(gone)

    def _no_layer_empty(self, gone: set[int]) -> set[int]:
        """A family may keep channels enough, and one layer of it none: that keeps its best."""
        for layer in self.found.layers:
            for labels in (layer.rows, layer.columns):
                groups = set(self.found.roots[labels].tolist())
                if groups <= gone:
                    gone = gone - {max(groups, key=lambda g: float(self.scores[g]))}
        return gone

    def cost(self, gone: set[int], what: str) -> float:
        """What is left: rows and columns that stay, each a share of the layer's."""
        total = 0.0
        for layer, costs in zip(self.found.layers, self.costs, strict=True):
            share = 1 - float(self.found.removed(layer.rows, gone).double().mean())
            if not is_depthwise(layer.node):
                share *= 1 - float(self.found.removed(layer.columns, gone).double().mean())
            total += share * costs[what]
        return total

    def fit(self, budget: dict[str, float]) -> set[int]:
        whole = {what: self.cost(set(), what) for what in budget}
        limits = {what: n * whole[what] if n <= 1 else n for what, n in budget.items()}
        gone: set[int] = set()
        left = [list(family) for family in self.families]
        for what, limit in limits.items():
            while (now := self.cost(gone, what)) > limit:
                steps = [(self._rate(gone, f, now, what), place) for place, f in enumerate(left) if self._step(f)]
                if not steps:
                    raise PruningBudgetError(
                        f"a budget of {limit:.0f} {what} cannot be met: {now:.0f} of {whole[what]:.0f} are left where "
                        f"each family keeps {self.multiple} channels; allow that, or a smaller multiple",
                        round(now),
                    )
                place = min(steps)[1]
                step = self._step(left[place])
                gone.update(left[place][:step])
                left[place] = left[place][step:]
                gone = self._no_layer_empty(gone)
        return gone

    def _step(self, family: list[int]) -> int:
        """How many go next, so that a multiple stays; 0 where none may."""
        over = len(family) % self.multiple or self.multiple
        return over if len(family) - over >= self.multiple else 0

    def _rate(self, gone: set[int], family: list[int], now: float, what: str) -> float:
        step = family[: self._step(family)]
        saved = now - self.cost(gone | set(step), what)
        return float(self.scores[step].sum()) / max(saved, 1e-9)


def _families(found: Following) -> list[set[int]]:
    """Groups that share a layer, and may go; a layer's results each are of one family."""
    families: list[set[int]] = []
    for layer in found.layers:
        groups = set(found.roots[layer.rows].tolist()) - set(found.kept)
        touched = [f for f in families if f & groups]
        families = [f for f in families if not f & groups]
        if groups:
            families.append(groups.union(*touched))
    return families


def _report(before: fx.GraphModule, after: fx.GraphModule, found: Following) -> PruningReport:
    nodes = {n.name: n for n in after.graph.nodes}
    layers = []
    for layer in found.layers:
        new = nodes[layer.node.name]
        weights = [attrgetter(layer.weight)(m) for m in (before, after)]
        axis = 1 if "transpose" in str(new.target) else 0
        reasons = [found.kept.get(root) for root in found.roots[layer.rows].tolist()]
        layers.append(
            PrunedLayer(
                name_of(new),
                (weights[0].shape[axis], weights[1].shape[axis]),
                (macs(layer.node), macs(new)),
                (weights[0].numel(), weights[1].numel()),
                next((r for r in reasons if r is not None), None),
            )
        )
    return PruningReport(tuple(layers))
