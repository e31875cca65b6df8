"""As little effort, and as few wide or float layers, as a loss that is allowed by the user's own metric needs.

    fast      as ever
    balanced  with what costs nothing at run time, and 16 bits for little of the time
    wide      balanced, with 16 bits wherever they take noise away, whatever the time
    float     wide, with the layers in float whose weights make the most noise, a few and then more of them

The first that is good enough is taken: nothing behind it is tried.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from typing import Any

from torch import fx

from fxquant import passes
from fxquant.calibration import calibrate
from fxquant.errors import AccuracyTargetError
from fxquant.gains import GAINS, Gain, gains_of
from fxquant.recipe import Recipe, Rule
from fxquant.tools.effort import balanced
from fxquant.tools.noise import output_noise_of
from fxquant.trials import as_trials

# What a model is worth, more being better: the FLOAT graph and INTEGER ones are given.
Metric = Callable[[fx.GraphModule], float]

# No limit to the time that 16 bits may add.
ANY_TIME = 1e9
# How many layers are left in float, one trial after the other.
IN_FLOAT = (1, 3)
NAMED = 5

Attempt = tuple[str, fx.GraphModule]


def quantize_within(
    graph: fx.GraphModule, data: Iterable[Any], recipe: Recipe, allowed: float, metric: Metric, *, progress: bool = True
) -> fx.GraphModule:
    """The first INTEGER graph that loses no more than `allowed`, in the metric's units, to the FLOAT `graph`.

    `data` must be iterable again and again. What was tried stands on the graph as a gain. Raises AccuracyTargetError,
    with the best graph and what makes its noise, if none is good enough.
    """
    real, losses = metric(graph), dict[str, float]()
    best: tuple[float, fx.GraphModule] | None = None
    for name, found in _attempts(graph, data, recipe, progress):
        losses[name] = real - metric(found)
        if best is None or losses[name] < best[0]:
            best = losses[name], found
        if losses[name] <= allowed:
            told = f"{name} loses {losses[name]:.4g} of {real:.6g}, {allowed:g} allowed"
            first = next(iter(losses.values()))
            gain = Gain("accuracy_target", len(losses), 1, "loss", first, losses[name], told, unit="")
            found.meta[GAINS] = (*gains_of(found), gain)
            return found
    assert best is not None  # there are attempts
    raise AccuracyTargetError(_why(graph, data, recipe, real, losses, allowed), best[1])


def _attempts(graph: fx.GraphModule, data: Iterable[Any], recipe: Recipe, progress: bool) -> Iterator[Attempt]:
    observed = calibrate(passes.prepare(recipe)(graph), data, progress=progress)
    yield "fast", passes.convert()(observed)
    yield "balanced", balanced(graph, data, recipe, progress=progress)
    yield "wide", balanced(graph, data, recipe, progress=progress, most_time=ANY_TIME)
    noise = output_noise_of(observed, as_trials(graph, data).fit)
    layers = sorted(noise.weights, key=lambda name: -noise.weights[name])
    for count in IN_FLOAT:
        rules = tuple(Rule(name, keep_float=True) for name in layers[:count])
        wanted = replace(recipe, rules=(*recipe.rules, *rules), strict=False)
        told = f"float: {', '.join(layers[:count])}"
        yield told, balanced(graph, data, wanted, progress=progress, most_time=ANY_TIME)


def _why(
    graph: fx.GraphModule, data: Iterable[Any], recipe: Recipe, real: float, losses: dict[str, float], allowed: float
) -> str:
    """What was tried, what it lost, and where the noise comes from."""
    tried = "\n".join(f"  {name}: {loss:.4g} lost" for name, loss in losses.items())
    observed = calibrate(passes.prepare(recipe)(graph), data, progress=False)
    noise = output_noise_of(observed, as_trials(graph, data).fit)
    shares = [(x, name) for name, x in noise.values.items()]
    shares += [(x, f"the weights of {name}") for name, x in noise.weights.items()]
    total = noise.total or 1.0
    most = ", ".join(f"{name} ({x / total:.0%})" for x, name in sorted(shares, reverse=True)[:NAMED])
    return (
        f"no quantization loses as little as {allowed:g} of {real:.6g}:\n{tried}\n"
        f"  in 8 bits most of the outputs' noise is made by {most or 'nothing that is known'}\n"
        "  more calibration data, more layers in float, or training with prepare_qat may reach it; the best graph is "
        "this error's `best`"
    )
