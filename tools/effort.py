"""How much is done to keep the accuracy: `quantize(..., effort="balanced")`.

    fast      prepare, calibrate, convert
    balanced  fast, and FitRanges, EqualizeLayers, WidenValues, EqualizeTables and CorrectBiases, each only if outputs
              gain by it
    max       balanced, and RoundWeights

The outputs' error is that on calibration inputs which nothing was fitted to, biases corrected, for that mends a part of
what ranges and factors cost. What each step gained stands on the graph (`fxquant.gains`), and in its report. None of
them costs anything at run time but WidenValues, which may add MOST_TIME of the time, as a model counts it
(`fxquant.tools.times`), and must gain LEAST_GAIN for it.
"""

from __future__ import annotations

import os
import warnings
from collections.abc import Iterable
from dataclasses import replace
from typing import Any, Literal, get_args

from torch import fx

from fxquant import passes
from fxquant.calibration import calibrate
from fxquant.errors import CalibrationError, RecipeError
from fxquant.gains import GAINS, Gain, gains_of
from fxquant.passmanager import Observe, Pass, Pipeline
from fxquant.progress import working
from fxquant.recipe import Recipe
from fxquant.tools.noise import output_noise_of
from fxquant.tools.widths import MOST_TIME, Choice, choose_widths
from fxquant.trials import SAMPLES, Trials, as_trials

Effort = Literal["fast", "balanced", "max"]
EFFORTS: tuple[str, ...] = get_args(Effort)
# Calibration inputs below which a step may be kept that loses on others.
FEW = 32
# Decibels of the outputs that 16 bits must be worth.
LEAST_GAIN = 0.5


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
    most_time: float = MOST_TIME,
    effort: Effort = "balanced",
) -> fx.GraphModule:
    """A FLOAT graph as an INTEGER one, with all that keeps accuracy and costs little at run time.

    `calibration` must be iterable again and again; `samples` of it are kept, to fit and to judge. `observe` sees the
    passes of every attempt. `most_time` is how much of the network's time values of 16 bits may add. Raises
    CalibrationError for a generator, which is used up after one turn.
    """
    if not recipe.needs_data:
        return _found_at_run_time(graph, recipe, observe)
    if iter(calibration) is calibration:
        raise CalibrationError(
            "calibration is a generator, used up after one turn: the effort balanced needs a list or a loader"
        )
    with working("choosing inputs", progress):
        trials = as_trials(graph, calibration, samples)
    _warn_of_few(trials)

    def observed(pipeline: Pipeline, file: str | os.PathLike[str] | None = None) -> fx.GraphModule:
        with working("balanced: preparing", progress):
            found = pipeline(graph, observe)
        return calibrate(found, calibration, progress=progress, checkpoint=file)

    attempts, fit = _Attempts(trials, observe, progress, most_time), passes.FitRanges(trials)
    plain = observed(passes.prepare(recipe), checkpoint)
    attempts.begin(plain)
    attempts.challenge(attempts.step(fit, plain))
    fits, first = attempts.best is not plain, [passes.EqualizeLayers(recipe, trials)]
    equal = observed(passes.prepare(recipe).before("Annotate", *first))
    is_equal = attempts.challenge(attempts.step(fit, equal) if fits else equal, gains_of(equal)[-1])
    attempts.widen()
    unlike = gains_of(passes.EqualizeTables()(graph))[-1]
    if unlike.kept:
        steps = [*(first if is_equal else []), passes.EqualizeTables()]
        tables = observed(passes.prepare(recipe).before("Annotate", *steps))
        attempts.challenge(attempts.widened(attempts.step(fit, tables) if fits else tables)[0], unlike)
    else:
        attempts.gains.append(unlike)
    if effort == "max":
        attempts.round()
    return attempts.result()


def _warn_of_few(trials: Trials) -> None:
    """Random networks judged by two inputs were measured to lose up to a decibel on others."""
    fit, judge = (sum(len(batch[0]) for batch in batches) for batches in (trials.fit, trials.judge))
    if fit + judge < FEW:
        warnings.warn(
            f"the effort balanced has {fit + judge} calibration inputs, of which {judge} judge what is kept: on others "
            f"it may lose; give {FEW} and more",
            stacklevel=4,
        )


def _found_at_run_time(graph: fx.GraphModule, recipe: Recipe, observe: Observe | None) -> fx.GraphModule:
    found = passes.convert()(passes.prepare(recipe)(graph, observe), observe)
    note = "all ranges are found at run time: there is nothing to fit"
    found.meta[GAINS] = (Gain("balanced", 0, 0, "outputs", 0.0, 0.0, note),)
    return found


class _Attempts:
    """Calibrated graphs that compete by the SQNR of their outputs as integers, biases corrected."""

    best: fx.GraphModule
    quantized: fx.GraphModule

    def __init__(self, trials: Trials, observe: Observe | None, progress: bool, most_time: float) -> None:
        self.trials, self.observe, self.progress, self.most_time = trials, observe, progress, most_time
        self.gains: list[Gain] = []

    def step(self, step: Pass, module: fx.GraphModule) -> fx.GraphModule:
        """One pass on a copy of the graph."""
        with working(f"balanced: {step.name}", self.progress):
            return Pipeline((step,))(module, self.observe)

    def begin(self, observed: fx.GraphModule) -> None:
        """The graph that others must be better than."""
        self.best, self.quantized = observed, self._integers(observed)

    def challenge(self, observed: fx.GraphModule, gain: Gain | None = None, least: float = 0.0) -> bool:
        """Take another graph if it is better than the best so far, by `least` dB; `gain` is its pass's own."""
        gain = gain or gains_of(observed)[-1]
        if not gain.kept:
            self.gains.append(gain)
            return False
        quantized = self._integers(observed)
        before, after = (gains_of(integers)[-1].after for integers in (self.quantized, quantized))
        if after > before + least:
            self.best, self.quantized = observed, quantized
            self.gains.append(replace(gain, measure="outputs", before=before, after=after))
        else:
            note = f"undone: outputs would have {after:.1f} dB instead of {before:.1f}"
            self.gains.append(replace(gain, kept=0, measure="outputs", before=before, after=before, note=note))
        return after > before + least

    def widen(self) -> None:
        """Keep the values in 16 bits that make much of the noise for little time."""
        widened, choice = self.widened(self.best)
        gain = Gain("WidenValues", choice.places, len(choice.values), "outputs", 0.0, 0.0, str(choice))
        self.challenge(widened, gain, LEAST_GAIN)

    def widened(self, observed: fx.GraphModule) -> tuple[fx.GraphModule, Choice]:
        """The graph with those values in 16 bits, and which they are."""
        with working("balanced: looking for values that need 16 bits", self.progress):
            choice = choose_widths(output_noise_of(observed, self.trials.fit), self.most_time)
        if not choice.values:
            return observed, choice
        return self.step(passes.WidenValues(choice.values, choice.whole), observed), choice

    def round(self) -> None:
        """Other integers for the weights, if outputs gain by them."""
        with working("max: rounding weights", self.progress):
            rounded = passes.convert().after("InsertQDQ", passes.RoundWeights(self.trials))(self.best, self.observe)
        gain = gains_of(rounded)[-1]
        quantized = self.step(passes.CorrectBiases(self.best, self.trials), rounded)
        before, after = (gains_of(integers)[-1].after for integers in (self.quantized, quantized))
        if gain.kept and after > before:
            self.quantized = quantized
            self.gains.append(replace(gain, measure="outputs", before=before, after=after))
        else:
            note = gain.note or f"undone: outputs would have {after:.1f} dB instead of {before:.1f}"
            self.gains.append(replace(gain, kept=0, measure="outputs", before=before, after=before, note=note))

    def result(self) -> fx.GraphModule:
        """The best integers, with what was gained on the way to them."""
        self.quantized.meta[GAINS] = (*self.gains, gains_of(self.quantized)[-1])
        return self.quantized

    def _integers(self, observed: fx.GraphModule) -> fx.GraphModule:
        with working("balanced: converting", self.progress):
            quantized = passes.convert()(observed, self.observe)
        return self.step(passes.CorrectBiases(observed, self.trials), quantized)
