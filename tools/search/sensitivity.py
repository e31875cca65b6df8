"""Which roundings make the outputs' noise: all ranked by one pass of gradients, the first ones run exactly."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

import torch
from torch import Tensor, fx

from fxquant import passes
from fxquant.batches import Transform, repeatable, transformed
from fxquant.calibration import calibrate
from fxquant.errors import FxquantError
from fxquant.gains import decibels, output_noise
from fxquant.graph import is_float, outputs
from fxquant.passes.propagate_ranges import SET
from fxquant.plan import range_of
from fxquant.progress import working
from fxquant.tools.noise import Noise, flat, is_rounded, output_noise_of, weight_errors
from fxquant.tools.recipes import AnyRecipe, as_recipe
from fxquant.tools.search.records import Origin, Sensitivity
from fxquant.trials import Trials, as_trials

# Of so many of the first origins the noise is measured.
VERIFIED = 8
VALUE, WEIGHTS = "value", "weights"


def sensitivity(
    graph: fx.GraphModule,
    calibration: Iterable[Any],
    *,
    recipe: AnyRecipe = None,
    transform: Transform | None = None,
    verify: int = VERIFIED,
    progress: bool = True,
) -> Sensitivity:
    """How much each rounding of a FLOAT `graph`, quantized by `recipe`, adds to the noise of its outputs.

    Every value and every layer's weights are ranked by one pass of gradients times what rounding changes (see
    `fxquant.tools.noise`); of the first `verify` the noise is measured, everything else left as it is. `calibration` as
    for `quantize`, iterable again. Raises CalibrationError for a generator, FxquantError where no output is a float.
    """
    data = repeatable(transformed(calibration, transform))
    with working("calibrating", progress):
        observed = calibrate(passes.prepare(as_recipe(recipe))(graph), data, progress=False)
        trials = as_trials(graph, data)
    with working("gradients times rounding errors", progress) as update:
        noise = noise_of(observed, trials)
        found = [(share, name, VALUE) for name, share in noise.values.items()]
        found += [(share, name, WEIGHTS) for name, share in noise.weights.items()]
        found.sort(key=lambda origin: (-origin[0], origin[1], origin[2]))
        runs, total, origins = _Runs(noise.ranged, trials), noise.total or 1.0, []
        for place, (share, name, kind) in enumerate(found):
            update(f"running {min(place + 1, verify)} of {min(verify, len(found))}")
            exact = decibels(1.0, runs.noise(name, kind)) if place < verify else None
            origins.append(Origin(name, kind, share / total, exact))
    return Sensitivity(tuple(origins), decibels(1.0, noise.total))


def noise_of(observed: fx.GraphModule, trials: Trials, bits: tuple[int, ...] = ()) -> Noise:
    """The noise by origin. Raises FxquantError where there is none to be found."""
    if not any(is_float(node) for node in outputs(observed.graph)):
        raise FxquantError("no output of the graph is a float: there is no noise that could be told from its decisions")
    return output_noise_of(observed, trials.fit, bits=bits)


class _Runs:
    """Runs of the graph with one origin rounded, against those with none."""

    def __init__(self, ranged: fx.GraphModule, trials: Trials) -> None:
        self.ranged, self.trials = ranged, trials
        self.weights = {name: (node, by[0]) for node, (name, by) in weight_errors(ranged).items()}
        self.real = self._run("", {})

    def noise(self, name: str, kind: str) -> float:
        """The outputs' noise, as a share of their signal."""
        errors = dict([self.weights[name]]) if kind == WEIGHTS else {}
        return output_noise(self.real, self._run(name if kind == VALUE else "", errors))

    def _run(self, name: str, errors: dict[fx.Node, Tensor]) -> list[list[Tensor]]:
        with torch.no_grad():
            rows = [flat(_Alone(self.ranged, name, errors).run(*batch)) for batch in self.trials.judge]
        return [list(column) for column in zip(*rows, strict=True)]


class _Alone(fx.Interpreter):
    """The float graph with the values called `name` rounded, and constants off by `errors`."""

    def __init__(self, ranged: fx.GraphModule, name: str, errors: dict[fx.Node, Tensor]) -> None:
        super().__init__(ranged)
        self.name, self.errors = name, errors

    def run_node(self, n: fx.Node) -> Any:
        """A value, rounded where it is to be."""
        result = super().run_node(n)
        if n in self.errors:
            return result + self.errors[n]
        found = range_of(n) if n.meta.get(SET) == self.name and is_rounded(n) else None
        return result if found is None else found.qparams.rounded(result)

    def call_module(self, target: Any, args: tuple[Any, ...], kwargs: dict[str, Any]) -> Any:
        """An observer's result is its operand."""
        return args[0]
