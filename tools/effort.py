"""How much is done to keep the accuracy: `quantize(..., effort="balanced")`.

    fast      prepare, calibrate, convert
    balanced  fast, then FitRanges, EqualizeLayers and CorrectBiases, each one only if the outputs are better with it

The outputs' error is that on calibration inputs which nothing was fitted to. What each step gained stands on the graph
(`fxquant.gains`), and in its report. None of them costs anything at run time.
"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass, replace
from typing import Any, Literal, get_args

import torch
from torch import Tensor, fx

from fxquant import passes
from fxquant.calibration import calibrate
from fxquant.errors import CalibrationError, RecipeError
from fxquant.gains import GAINS, Gain, decibels, gains_of, output_noise
from fxquant.passmanager import Observe, Pass, Pipeline
from fxquant.progress import working
from fxquant.recipe import Recipe
from fxquant.tools.fidelity import flat
from fxquant.trials import SAMPLES, Batch, as_trials

Effort = Literal["fast", "balanced"]
EFFORTS: tuple[str, ...] = get_args(Effort)


def require_effort(effort: str) -> None:
    """Raise RecipeError for an effort that there is not."""
    if effort not in EFFORTS:
        raise RecipeError(f"there is no effort {effort!r}; there are: {', '.join(EFFORTS)}")


def balanced(
    graph: fx.GraphModule,
    calibration: Iterable[Any],
    recipe: Recipe,
    *,
    samples: int = SAMPLES,
    progress: bool = True,
    checkpoint: str | os.PathLike[str] | None = None,
    observe: Observe | None = None,
) -> fx.GraphModule:
    """A FLOAT graph as an INTEGER one, with all that keeps accuracy and costs nothing at run time.

    `calibration` must be iterable again and again; `samples` of it are kept, to fit and to judge. `observe` sees the
    passes of every attempt. Raises CalibrationError for a generator, which is used up after one turn.
    """
    if not recipe.needs_data:
        return _found_at_run_time(graph, recipe, observe)
    if iter(calibration) is calibration:
        raise CalibrationError(
            "calibration is a generator, used up after one turn: the effort balanced needs a list or a loader"
        )
    with working("choosing inputs", progress):
        trials = as_trials(graph, calibration, samples)
        judge = _Judge(trials.judge, _results(graph, trials.judge), observe, progress)

    def observed(pipeline: Pipeline, file: str | os.PathLike[str] | None = None) -> fx.GraphModule:
        with working("preparing", progress):
            found = pipeline(graph, observe)
        return calibrate(found, calibration, progress=progress, checkpoint=file)

    fit = passes.FitRanges(trials)
    plain = best = judge.attempt(observed(passes.prepare(recipe), checkpoint))
    best = judge.better(best, judge.step(fit, best.observed))
    equal = observed(passes.prepare(recipe).before("Annotate", passes.EqualizeLayers(recipe, trials)))
    best = judge.better(best, equal if best is plain else judge.step(fit, equal), gains_of(equal)[-1])
    corrected = judge.step(passes.CorrectBiases(best.observed, trials), best.quantized)
    corrected.meta[GAINS] = (*judge.gains, gains_of(corrected)[-1])
    return corrected


def _found_at_run_time(graph: fx.GraphModule, recipe: Recipe, observe: Observe | None) -> fx.GraphModule:
    found = passes.convert()(passes.prepare(recipe)(graph, observe), observe)
    note = "all ranges are found at run time: there is nothing to fit"
    found.meta[GAINS] = (Gain("balanced", 0, 0, "outputs", 0.0, 0.0, note),)
    return found


@dataclass(frozen=True)
class _Attempt:
    """A calibrated graph, its integers, and the noise of their outputs as a share of the signal."""

    observed: fx.GraphModule
    quantized: fx.GraphModule
    noise: float


class _Judge:
    """Tells which of two attempts is better, and remembers what was gained."""

    def __init__(
        self, inputs: tuple[Batch, ...], wanted: list[list[Tensor]], observe: Observe | None, progress: bool
    ) -> None:
        self.inputs, self.wanted, self.observe, self.progress = inputs, wanted, observe, progress
        self.gains: list[Gain] = []

    def step(self, step: Pass, module: fx.GraphModule) -> fx.GraphModule:
        """One pass on a copy of the graph."""
        with working(f"balanced: {step.name}", self.progress):
            return Pipeline((step,))(module, self.observe)

    def attempt(self, observed: fx.GraphModule) -> _Attempt:
        """The graph as integers."""
        with working("balanced: converting", self.progress):
            quantized = passes.convert()(observed, self.observe)
            return _Attempt(observed, quantized, output_noise(self.wanted, _results(quantized, self.inputs)))

    def better(self, best: _Attempt, observed: fx.GraphModule, gain: Gain | None = None) -> _Attempt:
        """The better one of the best so far and another graph; `gain` is what its last pass says of itself."""
        gain = gain or gains_of(observed)[-1]
        if not gain.kept:
            self.gains.append(gain)
            return best
        tried = self.attempt(observed)
        before, after = decibels(1.0, best.noise), decibels(1.0, tried.noise)
        if tried.noise < best.noise:
            self.gains.append(replace(gain, measure="outputs", before=before, after=after))
            return tried
        note = f"undone: outputs would have {after:.1f} dB instead of {before:.1f}"
        self.gains.append(replace(gain, kept=0, measure="outputs", before=before, after=before, note=note))
        return best


def _results(module: fx.GraphModule, batches: tuple[Batch, ...]) -> list[list[Tensor]]:
    """Of each output its batches."""
    with torch.no_grad():
        found = [flat(module(*batch)) for batch in batches]
    return [list(column) for column in zip(*found, strict=True)]
