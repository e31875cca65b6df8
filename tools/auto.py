"""Fixed ranges or ranges of run time, for each layer by what data say: `quantize(..., recipe="auto")`.

A fixed range must hold whatever comes, and gives a quiet sample few codes; a range of run time fits each sample, and
costs a pass over the operand and floats behind the product. So the graph is calibrated with fixed ranges on some of the
data, and on others each layer computes its result from operands that are rounded by either range. Where a sample's own
range leaves half of the noise or less, the layer gets it. What only such layers read, or lies between them and outputs,
stays float, for it would be rounded once more than is needed.

The choices become rules of the recipe, so that all that comes after is as if the user had written them.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field, replace
from statistics import fmean
from typing import Any

import torch
from torch import Tensor, fx

from fxquant import passes
from fxquant.batches import Transform, transformed
from fxquant.calibration import calibrate
from fxquant.choices import Choice
from fxquant.errors import CalibrationError
from fxquant.gains import decibels
from fxquant.graph import is_float
from fxquant.ops.table import Fusion
from fxquant.passes.annotate import takes_dynamic
from fxquant.passes.insert_dynamic import codes, is_never_negative
from fxquant.passmanager import Pipeline
from fxquant.plan import fused, is_integer, range_of, record
from fxquant.primitives import dynamic
from fxquant.recipe import Recipe, Rule, rule_names
from fxquant.scheme import Scheme
from fxquant.source import name_of
from fxquant.trials import as_trials
from fxquant.walk import Walk

# Less noise by so many dB is worth a pass over the operand: half of it.
ENOUGH = 3.0
_OUT = "it comes from a layer with a range of run time, as a float, and goes to outputs, which take floats"
_ONLY = "only layers with ranges of run time read it: rounding it before would be one rounding too many"


def settled(
    graph: fx.GraphModule,
    calibration: Iterable[Any],
    recipe: Recipe,
    *,
    transform: Transform | None = None,
    progress: bool = True,
) -> tuple[Recipe, tuple[Choice, ...]]:
    """A recipe that leaves no choice open, and what was chosen.

    `calibration` must be iterable again: it is drawn from here, and calibrated with later. Without any, every layer
    that can has ranges of run time. Raises CalibrationError for a generator, and for a single input.
    """
    fixed = replace(recipe, auto=False)
    if isinstance(calibration, (list, tuple)) and not calibration:
        return _without_data(graph, fixed)
    if iter(calibration) is calibration:
        raise CalibrationError(
            "calibration is a generator, used up after one turn: the recipe auto needs a list or a loader"
        )
    trials = as_trials(graph, transformed(calibration, transform))
    observed = calibrate(passes.prepare(fixed)(graph), trials.fit, progress=progress)
    ranged = Pipeline((passes.PropagateRanges(),))(observed)
    found = _Choosing(ranged, fixed)
    for node in (walk := Walk(ranged, trials.judge)):
        if found.is_open(node):
            found.weigh(node, walk)
    if not recipe.strict:
        found.spread()
    return replace(fixed, rules=(*fixed.rules, *found.rules())), found.choices()


def _without_data(graph: fx.GraphModule, recipe: Recipe) -> tuple[Recipe, tuple[Choice, ...]]:
    every = replace(recipe, activation=recipe.activation.with_(dynamic=True, symmetric=False))
    prepared = passes.prepare(every)(graph)
    reason = "there are no calibration data to find a fixed one with"
    layers = [node for node in prepared.graph.nodes if is_integer(node) and _is_product(node)]
    return every, tuple(Choice(name_of(node), True, 0.0, reason) for node in layers)


def _is_product(node: fx.Node) -> bool:
    rule = record(node)
    return rule is not None and is_float(node) and takes_dynamic(rule, node)


@dataclass
class _Choosing:
    """A graph with fixed ranges, and the choices of its layers as they are made."""

    module: fx.GraphModule
    recipe: Recipe
    made: dict[fx.Node, Choice] = field(default_factory=dict)

    def is_open(self, node: fx.Node) -> bool:
        """Whether the node is a product, and no rule of the recipe says which ranges it has."""
        if node.op != "call_function" or not is_integer(node) or not _is_product(node):
            return False
        return not self._is_ruled(node)

    def _is_ruled(self, node: fx.Node) -> bool:
        return any((rule.activation or rule.keep_float) and rule.applies(node) for rule in self.recipe.rules)

    def weigh(self, node: fx.Node, walk: Walk) -> None:
        """The noise of the result by either range, sample by sample."""
        rule = record(node)
        scheme = self.recipe.activation_for(node)
        operands = [x for x in dict.fromkeys(rule.operands(node) if rule else ()) if range_of(x) is not None]
        gains: list[float] = []
        peaks: dict[fx.Node, list[float]] = {x: [] for x in operands}
        for batch in range(len(walk.batches)):
            values = {x: walk.values[x][batch] for x in operands}
            fixed, own = ({x: form(x, v, scheme) for x, v in values.items()} for form in (_fixed, _own))
            exact = walk.values[node][batch]
            noises = [_noise(walk.value(node, batch, instead), exact) for instead in (fixed, own)]
            gains += [decibels(a, b) for a, b in zip(*noises, strict=True) if a and b]
            for x, value in values.items():
                peaks[x] += [float(n) for n in value.abs().reshape(len(value), -1).amax(1)]
        gain = fmean(gains) if gains else 0.0
        self.made[node] = Choice(name_of(node), gain >= ENOUGH, round(gain, 2), _reason(gain, peaks.values()))

    def spread(self) -> None:
        """Leave in float what only dynamic layers read, and what comes from such and goes to outputs."""
        inner, outer = set[fx.Node](), set[fx.Node]()
        for node in reversed(self.module.graph.nodes):
            readers = list(_readers(node))
            if not readers or not self._may_stay(node):
                continue
            if all(self._is_dynamic(r) or r in inner for r in readers):
                inner.add(node)
            elif all(self._is_dynamic(r) or r in inner or r in outer or r.op == "output" for r in readers):
                outer.add(node)
        for node in self.module.graph.nodes:
            if node in inner or (node in outer and any(map(self._is_dynamic, _sources(node)))):
                self.made[node] = Choice(name_of(node), True, 0.0, _ONLY if node in inner else _OUT)

    def _is_dynamic(self, node: fx.Node) -> bool:
        return node in self.made and self.made[node].dynamic

    def _may_stay(self, node: fx.Node) -> bool:
        """Whether the node is no product, nothing is said of it, and no product with a fixed range is rounded by it."""
        if node.op != "call_function" or node in self.made or not is_integer(node) or not is_float(node):
            return False
        rule = record(node)
        return (
            rule is not None
            and rule.fusion is not Fusion.SUM
            and not self._is_ruled(node)
            and not self._takes_up_fixed(node)
        )

    def _takes_up_fixed(self, node: fx.Node) -> bool:
        """Whether a product with a fixed range is rounded by the node."""
        return any(_is_product(n) and not self._is_dynamic(n) for n in fused(node)[:-1])

    def rules(self) -> list[Rule]:
        """A rule for each layer whose ranges are found at run time."""
        calls = [n for n in self.module.graph.nodes if n.op == "call_function"]
        counted = Counter(name for node in calls for name in set(rule_names(node)))
        found = []
        for node, choice in self.made.items():
            if choice.dynamic:
                alone = next(name for name in (name_of(node), node.name, *rule_names(node)) if counted[name] == 1)
                found.append(Rule(alone, self.recipe.activation_for(node).with_(dynamic=True, symmetric=False)))
        return found

    def choices(self) -> tuple[Choice, ...]:
        """In the order of the graph."""
        return tuple(self.made[node] for node in self.module.graph.nodes if node in self.made)


def _readers(node: fx.Node) -> Iterator[fx.Node]:
    """Who reads the value, whether observed or not."""
    for user in node.users:
        if user.op == "call_module":
            yield from _readers(user)
        else:
            yield user


def _sources(node: fx.Node) -> Iterator[fx.Node]:
    """The operands, whether observed or not."""
    for operand in node.all_input_nodes:
        yield operand.all_input_nodes[0] if operand.op == "call_module" else operand


def _fixed(x: fx.Node, value: Tensor, _scheme: Scheme) -> Tensor:
    found = range_of(x)
    assert found is not None
    return found.qparams.rounded(value)


def _own(x: fx.Node, value: Tensor, scheme: Scheme) -> Tensor:
    zero, low, high = codes(scheme, is_never_negative(x))
    scale = dynamic.dynamic_scale(value, high - zero)
    return dynamic.dequantize_dynamic(dynamic.quantize_dynamic(value, scale, zero, low, high), scale, zero)


def _noise(found: Tensor, exact: Tensor) -> list[float]:
    """Of each sample."""
    return [float(n) for n in (found - exact).square().reshape(len(exact), -1).sum(1, dtype=torch.float64)]


def _reason(gain: float, peaks: Iterable[list[float]]) -> str:
    apart = [max(found) / least for found in peaks if found and (least := min(found))]
    told = f"the largest values of samples differ {max(apart, default=1.0):.1f}-fold"
    if gain >= ENOUGH:
        return f"each sample's own leaves {gain:.1f} dB less noise: {told}"
    change = f"{gain:.1f} dB less" if gain >= 0 else f"{-gain:.1f} dB more"
    return f"each sample's own would leave {change} noise, and {ENOUGH:g} less are worth it: {told}"
