"""Which bits each layer is to have, under budgets: candidates from gradients, every point really quantized.

    values of 16 bits   those that make most of the noise for the time they cost, first
    weights of 4 bits   those of the layers that make the least noise of it for the bytes they save, first
    layers in float     those whose weights make most of the noise for the time they cost, first

Noise of different origins adds up, so that each of these lists needs no search: of each some prefixes are taken, and
their combinations are quantized and measured. What is measured is never estimated: the loss by the user's own metric or
the outputs' noise, bytes, and the time of this machine or the instructions of an emulated one.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from fxquant import passes
from fxquant.batches import Transform, repeatable, transformed
from fxquant.calibration import calibrate
from fxquant.errors import RecipeError
from fxquant.gains import output_noise
from fxquant.progress import working
from fxquant.recipe import Recipe, Rule
from fxquant.source import name_of
from fxquant.tools.accuracy_target import Metric
from fxquant.tools.effort import Effort, balanced, require_effort
from fxquant.tools.macs import macs
from fxquant.tools.noise import Noise, flat, with_bits
from fxquant.tools.recipes import AnyRecipe, as_recipe
from fxquant.tools.search.costs import Costs, as_costs
from fxquant.tools.search.records import MEASURES, Point, Search
from fxquant.tools.search.sensitivity import noise_of
from fxquant.tools.widths import candidates_of, members_of
from fxquant.trials import Trials, as_trials

FLOAT = "float"
CHOICES: tuple[int | str, ...] = (16, 8, 4)
KNOWN_CHOICES = (FLOAT, 16, 8, 4, 2)
# How much of each list is tried, besides nothing; and what share of the noise an origin must make to be in it.
SHARES, LEAST_SHARE = (0.25, 0.5, 1.0), 0.002


def search(
    graph: fx.GraphModule,
    calibration: Iterable[Any],
    *,
    budget: Mapping[str, float] | None = None,
    choices: Sequence[int | str] = CHOICES,
    metric: Metric | None = None,
    target: str | None = None,
    recipe: AnyRecipe = None,
    transform: Transform | None = None,
    effort: Effort = "fast",
    most: int = 16,
    progress: bool = True,
) -> Search:
    """Assignments of bits to the layers of a FLOAT `graph`, and the one to take.

    `choices` are of "float", 16 (values), 8, 4 and 2 (weights). `budget` limits any of "loss", "size" (bytes of
    weights), "ram" (bytes of activations of one sample) and "time"; of what is within it, that with the least loss is
    the best, or where "loss" is limited, the fastest, smallest one. `metric` gives a model's worth, such as accuracy in
    percent, and loss is what of it is lost to the float graph; without one it is the noise of the outputs in percent
    of their power, on calibration inputs. Time is a count for any machine, in multiply-accumulates, or for a `target`
    microseconds on this machine, or instructions of an emulated one. `most` points are quantized, each by `effort`.

    Raises RecipeError for a choice or a budget that there is not, CalibrationError for a generator.
    """
    wanted, limits = as_recipe(recipe), dict(budget or {})
    _check(choices, limits)
    require_effort(effort)
    data = repeatable(transformed(calibration, transform))
    with working("looking for what makes the noise", progress) as update:
        observed = calibrate(passes.prepare(wanted)(graph), data, progress=False)
        trials = as_trials(graph, data)
        bits = tuple(sorted({b for b in choices if isinstance(b, int) and b < 8}, reverse=True))
        lists = _Lists(noise_of(observed, trials, bits), choices, bits)
        judge = _Judge(graph, data, trials, metric, as_costs(target), effort)
        points: list[Point] = []
        for number, assignment in enumerate(lists.assignments(most, limits.get("size"))):
            update(f"quantization {number + 1} of {most} at most: {assignment.told}")
            points.append(judge.point(assignment.recipe(wanted), assignment))
    within = [p for p in points if all(getattr(p, name) <= limit for name, limit in limits.items())]
    by_loss = "loss" not in limits
    best = min(within, key=lambda p: (p.loss,) if by_loss else (p.time, p.size, p.loss), default=None)
    return Search(tuple(points), best, limits, judge.measure, judge.costs.unit)


def _check(choices: Sequence[int | str], limits: Mapping[str, float]) -> None:
    for choice in choices:
        if choice not in KNOWN_CHOICES:
            raise RecipeError(f"layers can have {', '.join(map(str, KNOWN_CHOICES))}; {choice!r} is none of these")
    for name in limits:
        if name not in MEASURES:
            raise RecipeError(f"a budget limits {', '.join(MEASURES)}, not {name!r}")


@dataclass(frozen=True)
class Assignment:
    """Values in 16 bits (each with all nodes that share its range), weights' bits by layer, layers in float."""

    wide: tuple[tuple[str, tuple[str, ...]], ...] = ()
    weights: tuple[tuple[str, int], ...] = ()
    floats: tuple[str, ...] = ()

    @property
    def told(self) -> str:
        """In numbers."""
        return f"{len(self.wide)} wide values, {len(self.weights)} layers of few bits, {len(self.floats)} in float"

    def recipe(self, base: Recipe) -> Recipe:
        """The recipe that asks for it."""
        wide = base.activation.with_(qmin=-(1 << 15), qmax=(1 << 15) - 1, observer="minmax")
        rules = [Rule(name, activation=wide) for _, members in self.wide for name in members]
        rules += [Rule(name, weight=with_bits(base.weight, bits)) for name, bits in self.weights]
        rules += [Rule(name, keep_float=True) for name in self.floats]
        operand = base.operand or (base.activation if self.wide else None)
        return replace(base, rules=(*base.rules, *rules), operand=operand)


class _Lists:
    """What may be changed, in the order in which it is to be."""

    def __init__(self, noise: Noise, choices: Sequence[int | str], bits: tuple[int, ...]) -> None:
        self.noise = noise
        self.layers = {name_of(n): n for n in noise.ranged.graph.nodes if name_of(n) in noise.weights and macs(n)}
        self.wide = self._wide() if 16 in choices else []
        self.floats = self._floats() if FLOAT in choices else []
        self.narrow = self._narrow(bits)

    def _wide(self) -> list[tuple[str, tuple[str, ...]]]:
        found = [c for c in candidates_of(self.noise) if not c.whole and not c.bytes]
        found = [c for c in found if c.gain >= LEAST_SHARE * self.noise.total]
        members = members_of(self.noise.ranged.graph)
        return [(c.name, tuple(map(name_of, members[c.name]))) for c in found]

    def _floats(self) -> list[str]:
        found = [(noise / max(1, macs(self.layers[name])), name) for name, noise in self.noise.weights.items()
                 if name in self.layers and noise >= LEAST_SHARE * self.noise.total]  # fmt: skip
        return [name for _, name in sorted(found, reverse=True)]

    def _narrow(self, bits: Sequence[int]) -> list[tuple[str, int]]:
        """Steps to fewer bits, the least noise for a byte first; a layer's later steps come behind its earlier ones."""
        found = []
        for name in self.layers:
            before, noise, cost = 8, self.noise.weights.get(name, 0.0), 0.0
            for count in bits:
                more = self.noise.by_bits[count].get(name, 0.0)
                cost = max(cost, (more - noise) / (self._bytes(name) * (before - count) / 8))
                found.append((cost, -count, name))
                before, noise = count, more
        return [(name, -count) for _, count, name in sorted(found)]

    def _bytes(self, name: str) -> int:
        """Of the layer's weights in 8 bits."""
        node = self.layers[name]
        return max(int(a.meta["val"].numel()) for a in node.all_input_nodes if a.op == "get_attr")

    def assignments(self, most: int, size: float | None) -> Iterator[Assignment]:
        """Each list alone, then combinations, the longest first, `most` in all."""
        starts = [self._lengths(found) for found in (self.wide, self.narrow, self.floats)]
        if size is not None:
            starts[1] = sorted({*starts[1], self._for(size)})
        several = sorted(itertools.product(*starts), key=lambda t: (sum(map(bool, t)), -sum(t)))
        seen: set[Assignment] = set()
        for wide, narrow, floats in several:
            least = dict(self.narrow[:narrow])  # of a layer's steps the last one counts
            made = Assignment(tuple(self.wide[:wide]), tuple(least.items()), tuple(self.floats[:floats]))
            if made not in seen and len(seen) < most:
                seen.add(made)
                yield made

    def _lengths(self, found: Sequence[Any]) -> list[int]:
        return sorted({0, *(max(1, round(share * len(found))) for share in SHARES if found)})

    def _for(self, size: float) -> int:
        """The shortest prefix of steps to fewer bits with which all weights take so many bytes; all if none does."""
        taken = dict.fromkeys(self.layers, 8)
        for place, (name, count) in enumerate(self.narrow):
            if sum(self._bytes(n) * b / 8 for n, b in taken.items()) <= size:
                return place
            taken[name] = count
        return len(self.narrow)


class _Judge:
    """Quantizes by an assignment, and measures."""

    def __init__(
        self,
        graph: fx.GraphModule,
        data: Iterable[Any],
        trials: Trials,
        metric: Metric | None,
        costs: Costs,
        effort: Effort,
    ) -> None:
        self.graph, self.data, self.trials, self.metric, self.costs = graph, data, trials, metric, costs
        self.effort = effort
        self.measure = "metric lost" if metric else "noise of the outputs, % of their power"
        self.worth = metric(graph) if metric else 0.0
        self.real = self._outputs(graph)

    def point(self, recipe: Recipe, assignment: Assignment) -> Point:
        """What the assignment makes of the network."""
        found = self._quantized(recipe)
        if self.metric is not None:
            loss = self.worth - self.metric(found)
        else:
            loss = 100.0 * output_noise(self.real, self._outputs(found))
        size, ram, time = self.costs.of(found, [x[:1] for x in self.trials.judge[0]])
        wide = tuple(name for name, _ in assignment.wide)
        return Point(recipe, wide, assignment.weights, assignment.floats, float(loss), size, ram, time)

    def _quantized(self, recipe: Recipe) -> fx.GraphModule:
        if self.effort != "fast":
            return balanced(self.graph, self.data, recipe, progress=False, effort=self.effort)
        observed = calibrate(passes.prepare(recipe)(self.graph), self.data, progress=False)
        return passes.convert()(observed)

    def _outputs(self, graph: fx.GraphModule) -> list[list[torch.Tensor]]:
        with torch.no_grad():
            rows = [flat(graph(*batch)) for batch in self.trials.judge]
        return [list(column) for column in zip(*rows, strict=True)]
