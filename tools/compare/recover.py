"""Which layers, left in float, win the accuracy back: as few of them as a search over real quantizations finds.

0  if data lies outside of the calibrated ranges: whether calibrating on it is enough
1  all layers by their own error, worst first
2  bisect for the shortest prefix of that list that reaches the goal
3  give back to the integers, one by one from the mildest, whatever the goal is reached without
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from fxquant.batches import Joined, Transform, transformed
from fxquant.calibration import calibrate
from fxquant.errors import CalibrationError
from fxquant.passes import convert, prepare
from fxquant.progress import working
from fxquant.recipe import Recipe, Rule
from fxquant.source import name_of
from fxquant.tools.agreement import Agreement
from fxquant.tools.compare.records import Comparison, Layer, Recovery
from fxquant.tools.effort import Effort, balanced, require_effort
from fxquant.tools.fidelity import canonical, measure
from fxquant.tools.recipes import AnyRecipe, as_recipe

AGREEMENT_GOAL, DECIBEL_GOAL = 0.99, 30.0
# Step 3 tries this many layers at most: each costs a quantization.
MOST_GIVEN_BACK = 12


def recover(
    graph: fx.GraphModule,
    calibration: Iterable[Any],
    data: Iterable[Any],
    found: Comparison,
    *,
    recipe: AnyRecipe = None,
    transform: Transform | None = None,
    agreement: Agreement | None = None,
    goal: float | None = None,
    effort: Effort = "fast",
    progress: bool = True,
) -> Recovery:
    """Search with the FLOAT `graph`, whose quantization by `recipe` on `calibration` was compared on `data` as `found`.

    Both must be iterable again and again; `transform` is applied to what they give, as by `calibrate`. `agreement` is
    what `compare` was given, `effort` what `quantize` was, for all that is tried; `goal` is a share, or decibels
    of output SQNR where nothing is decided. Where `found` has values outside of their calibrated range, it is tried
    first whether calibration on `data` as well is all it takes. Raises CalibrationError for a `calibration` or `data`
    that is used up.
    """
    for name, samples in (("calibration", calibration), ("data", data)):
        if iter(samples) is samples:
            raise CalibrationError(
                f"{name} is a generator, used up after one turn: the search needs a list or a loader"
            )
    calibration, data = transformed(calibration, transform), transformed(data, transform)
    wanted = as_recipe(recipe)
    require_effort(effort)
    trial = _Trial(graph, data, agreement, effort, is_choice=found.agreement is not None)
    bar = goal if goal is not None else AGREEMENT_GOAL if trial.is_choice else DECIBEL_GOAL
    calls = {name_of(node) for node in canonical(graph, None).graph.nodes if node.op == "call_function"}
    # An input is quantized for its users' sake: what can be left in float are operations that are there by themselves.
    own = (replace(layer, originals=tuple(n for n in layer.originals if n in calls)) for layer in found.layers)
    ranked = sorted((layer for layer in own if layer.originals), key=lambda layer: (layer.local_db, layer.name))
    with working("searching for layers to leave in float", progress) as update:
        tried: dict[tuple[str, ...], float] = {}

        def score(layers: Sequence[Layer]) -> float:
            key = tuple(sorted(layer.name for layer in layers))
            if key not in tried:
                update(f"quantization {len(tried) + 1}: {len(layers)} layers in float")
                tried[key] = trial.score(calibration, _with_float(wanted, layers))
            return tried[key]

        before = min(found.output_db) if found.agreement is None else found.agreement
        recalibrated = None
        if before < bar and found.outside:
            update("calibrating on the data as well")
            recalibrated = trial.score(Joined(calibration, data), wanted)
        is_enough = before >= bar or (recalibrated is not None and recalibrated >= bar)
        kept = [] if is_enough else _given_back(_prefix(ranked, score, bar), score, bar)
        after = score(kept) if kept else before
    names = tuple(name for layer in kept for name in layer.originals)
    measured_by = "agreement" if trial.is_choice else "output SQNR dB"
    outside = tuple(layer.name for layer in found.outside) if recalibrated is not None else ()
    count = len(tried) + (recalibrated is not None)
    kept_names = tuple(layer.name for layer in kept)
    return Recovery(measured_by, bar, before, after, kept_names, names, count, outside, recalibrated)


Score = Callable[[Sequence[Layer]], float]


def _prefix(ranked: list[Layer], score: Score, bar: float) -> list[Layer]:
    """The shortest prefix that reaches the bar, if longer ones do better; all layers if even those do not."""
    low, high = 1, len(ranked)
    while low < high:
        middle = (low + high) // 2
        low, high = (low, middle) if score(ranked[:middle]) >= bar else (middle + 1, high)
    return ranked[:low]


def _given_back(kept: list[Layer], score: Score, bar: float) -> list[Layer]:
    for layer in list(reversed(kept))[:MOST_GIVEN_BACK]:
        less = [other for other in kept if other is not layer]
        if less and score(less) >= bar:
            kept = less
    return kept


def _with_float(recipe: Recipe, layers: Sequence[Layer]) -> Recipe:
    rules = tuple(Rule(name, keep_float=True) for layer in layers for name in layer.originals)
    return replace(recipe, rules=(*recipe.rules, *rules), strict=False)


@dataclass(frozen=True)
class _Trial:
    """What every quantization that is tried is measured by."""

    graph: fx.GraphModule
    data: Iterable[Any]
    agreement: Agreement | None
    effort: Effort
    is_choice: bool

    def score(self, calibration: Iterable[Any], recipe: Recipe) -> float:
        """Quantize, and compare: a share of equal decisions, or decibels."""
        if self.effort != "fast":
            quantized = balanced(self.graph, calibration, recipe, progress=False, effort=self.effort)
        else:
            quantized = convert()(calibrate(prepare(recipe)(self.graph), calibration, progress=False))
        found = measure(quantized, self.graph, self.data, agreement=self.agreement)
        return found.agreement if self.is_choice and found.agreement is not None else min(found.outputs)
