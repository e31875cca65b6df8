"""Give the channels between two layers like ranges, by factors that the second layer takes back.

    %c = conv2d(%x, %w, %b);     %r = relu(%c); %d = conv2d(%r, %v)
  =>  %c = conv2d(%x, %w / s, %b / s); %r = relu(%c); %d = conv2d(%r, %v * s)

A value is rounded with one step for all of its channels: one that is a hundred times smaller than the largest has two
codes left. What lies between the layers must keep positive factors, f(s x) = s f(x): ReLU, leaky ReLU, PReLU, pooling,
padding by zero. A clamp at another end than zero (ReLU6) keeps none: it would need an end for each channel.

The factors are one of

    weights      sqrt(r / v)    r, v: a channel's largest weights in the first and in the second layer
    both         sqrt(a / v)    a: the channel's largest value on data
    activations  a

The first is cross-layer equalization (Nagel et al. 2019, "Data-Free Quantization Through Weight Equalization and Bias
Correction", section 4.1), the second what SmoothQuant migrates (Xiao et al. 2023). Which of them helps depends on what
has a scale for each channel anyway; so, where there are data, each is tried on every pair of layers with weights and
values rounded, and the best is taken, unless inputs that nothing was fitted to lose by it.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fxquant import observers
from fxquant.arguments import argument, int_arg, node_arg
from fxquant.equalized import Divided, note_divided
from fxquant.gains import Gain, decibels, noise_power, note_gain
from fxquant.graph import add_constant, clean, constant_value
from fxquant.passes.layer_pairs import Pair, pairs
from fxquant.passmanager import Pass
from fxquant.recipe import Recipe
from fxquant.scheme import Scheme
from fxquant.sensitive import sensitive
from fxquant.source import name_of
from fxquant.trials import SAMPLES, Trials, as_trials
from fxquant.walk import Walk

# No factor is further from the others' geometric mean: what was hardly ever seen of a channel says little of it.
FURTHEST = 2.0**6


@dataclass(frozen=True)
class EqualizeLayers(Pass):
    """Give the channels between two layers like ranges, by factors that the second layer takes back.

    `recipe` says how weights and values will be rounded, `data` are inputs as for `calibrate`, or Trials; `samples` of
    them are looked at. Without data the factors are those of the weights, and nothing is judged.
    """

    recipe: Recipe = field(default_factory=Recipe)
    data: Any = field(default=(), repr=False)
    samples: int = SAMPLES

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: two layers, the first read by the second alone. Batch norms are folded before."""
        found = pairs(module)
        if not found:
            note = "no two layers follow each other with nothing but ReLU, pooling or padding between them"
            note_gain(module, Gain(self.name, 0, 0, "their layers", 0.0, 0.0, note))
        elif isinstance(self.data, tuple) and not self.data:
            for pair in found:
                _divide(module, pair, _by_weights(module, pair))
            note = "by weights alone, for there are no data to judge by"
            note_gain(module, Gain(self.name, len(found), len(found), "their layers", 0.0, 0.0, note))
        else:
            self._fit(module, found, as_trials(module, self.data, self.samples))
        return clean(module)

    def _fit(self, module: fx.GraphModule, found: list[Pair], trials: Trials) -> None:
        walk = Walk(module, trials.all, {pair.second: pair.reads for pair in found})
        by_second = {pair.second: pair for pair in found}
        before, after, kept = [], [], 0
        for node in walk:
            if node not in by_second:
                continue
            trial = _Trial(module, by_second[node], walk, len(trials.fit), self.recipe)
            factors = trial.best()
            before.append(trial.judged(None))
            after.append(before[-1])
            if factors is not None and (judged := trial.judged(factors)) < before[-1]:
                _divide(module, by_second[node], factors, walk)
                after[-1] = judged
                kept += 1
        told = tuple(decibels(1.0, sum(noise) / len(found)) for noise in (before, after))
        note_gain(module, Gain(self.name, len(found), kept, "their layers", told[0], told[1]))


class _Trial:
    """A pair of layers, run with weights and the value between them rounded."""

    def __init__(self, module: fx.GraphModule, pair: Pair, walk: Walk, count: int, recipe: Recipe) -> None:
        self.module, self.pair, self.walk, self.count = module, pair, walk, count
        careful = sensitive(module.graph)
        self.weights = tuple(recipe.weight_for(n, n in careful) for n in (pair.first, pair.second))
        self.values = recipe.activation_for(pair.last)
        self.largest = _largest(walk.values[pair.last][:count], pair.axis)

    def best(self) -> Tensor | None:
        """The factors with the least noise on the inputs to fit to; None where that is without any."""
        second = _columns(self.module, self.pair)
        tried = [
            _by_weights(self.module, self.pair),
            _factors(torch.sqrt(self.largest / second), self.largest * second),
            _factors(self.largest, self.largest),
        ]
        noise = [self._noise(factors, fitting=True) for factors in (None, *tried)]
        place = noise.index(min(noise))
        return tried[place - 1] if place else None

    def judged(self, factors: Tensor | None) -> float:
        """The noise on the inputs to judge by, as a share of the signal."""
        return self._noise(factors, fitting=False)

    def _noise(self, factors: Tensor | None, fitting: bool) -> float:
        ones = torch.ones_like(self.largest) if factors is None else factors
        constants, scheme = self._rounded(ones), self.values
        observer = observers.make(scheme.with_(observer="minmax"))
        middle = [self._between(batch, constants) for batch in range(self.count)]
        for value in middle:
            observer(value)
        qparams = observer.qparams()
        batches = range(self.count) if fitting else range(self.count, len(self.walk.batches))
        signal = noise = 0.0
        for batch in batches:
            value = middle[batch] if fitting else self._between(batch, constants)
            given = constants | {self.pair.last: qparams.rounded(value)}
            result = self.walk.value(self.pair.second, batch, given)
            powers = noise_power(self.walk.values[self.pair.second][batch], result)
            signal, noise = signal + powers[0], noise + powers[1]
        return noise / signal if signal else 0.0

    def _between(self, batch: int, constants: dict[fx.Node, Tensor]) -> Tensor:
        """The value between the layers."""
        given = dict(constants)
        for node in self.pair.path:
            given[node] = self.walk.value(node, batch, given)
        return given[self.pair.last]

    def _rounded(self, factors: Tensor) -> dict[fx.Node, Tensor]:
        """The constants of both layers with these factors, weights rounded."""
        first, bias, second = _divided(self.module, self.pair, factors)
        found = {
            node_arg(self.pair.first, 1): _fake(first, self.weights[0]),
            node_arg(self.pair.second, 1): _fake(second, self.weights[1]),
        }
        if bias is not None:
            found[node_arg(self.pair.first, 2)] = bias
        return found


def _fake(weight: Tensor, scheme: Scheme) -> Tensor:
    observer = observers.make(scheme)
    observer(weight)
    return observer.qparams().rounded(weight)


def _largest(batches: Sequence[Tensor], axis: int) -> Tensor:
    """The largest magnitude of each channel, float64."""
    found = [batch.movedim(axis, 0).flatten(1).abs().amax(1) for batch in batches]
    return torch.stack(found).amax(0).double()


def _by_weights(module: fx.GraphModule, pair: Pair) -> Tensor:
    rows = constant_value(module, node_arg(pair.first, 1)).double().abs().flatten(1).amax(1)
    columns = _columns(module, pair)
    return _factors(torch.sqrt(rows / columns), rows * columns)


def _factors(raw: Tensor, known: Tensor) -> Tensor:
    """`raw` around a geometric mean of one, within limits; a channel of which nothing is `known` (0) gets one."""
    whole = known > 0
    logs = torch.where(whole, torch.log2(torch.where(whole, raw, 1.0)), 0.0)
    middle = logs[whole].mean() if bool(whole.any()) else 0.0
    limit = torch.log2(torch.tensor(FURTHEST)).item()
    return torch.where(whole, torch.exp2((logs - middle).clamp(-limit, limit)), 1.0)


def _grouped(pair: Pair, weight: Tensor) -> Tensor:
    """The second layer's weight as (groups, out / groups, in / groups, taps)."""
    groups = int_arg(pair.second, "groups") if weight.ndim > 2 else 1
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def _columns(module: fx.GraphModule, pair: Pair) -> Tensor:
    """The largest magnitude of the second layer's weights for each channel that it reads."""
    weight = constant_value(module, node_arg(pair.second, 1)).double()
    return _grouped(pair, weight).abs().amax((1, 3)).flatten()


def _divided(module: fx.GraphModule, pair: Pair, factors: Tensor) -> tuple[Tensor, Tensor | None, Tensor]:
    """Weight and bias of the first layer, and weight of the second one, with these factors."""
    first, second = (constant_value(module, node_arg(layer, 1)).double() for layer in (pair.first, pair.second))
    bias = argument(pair.first, "bias")
    rows = (first / factors.reshape(-1, *[1] * (first.ndim - 1))).float()
    grouped = _grouped(pair, second)
    columns = (grouped * factors.reshape(grouped.shape[0], 1, -1, 1)).reshape(second.shape).float()
    return rows, None if bias is None else (constant_value(module, bias).double() / factors).float(), columns


def _divide(module: fx.GraphModule, pair: Pair, factors: Tensor, walk: Walk | None = None) -> None:
    """Take the factors into both layers, and into what a walk knows of the values between them."""
    first, bias, second = _divided(module, pair, factors)
    for layer, place, value in ((pair.first, 1, first), (pair.first, 2, bias), (pair.second, 1, second)):
        if value is not None:
            with module.graph.inserting_before(layer):
                role = "bias" if place == 2 else "weight"
                layer.update_arg(place, add_constant(module, value, f"{layer.name}_{role}"))
    for node in pair.path:
        note_divided(module, name_of(node), pair.axis, factors)
        if walk is not None:
            divided = Divided(pair.axis, tuple(factors.tolist()))
            walk.values[node] = [divided.of(value) for value in walk.values[node]]
