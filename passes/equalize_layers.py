"""Give the channels between two layers like ranges, by factors that the second layer takes back.

    %c = conv2d(%x, %w, %b);     %r = relu(%c); %d = conv2d(%r, %v)
  =>  %c = conv2d(%x, %w / s, %b / s); %r = relu(%c); %d = conv2d(%r, %v * s)

    %n = layer_norm(%x, %g, %b);         %q = linear(%n, %v);     %k = linear(%n, %u)
  =>  %n = layer_norm(%x, %g / s, %b / s); %q = linear(%n, %v * s); %k = linear(%n, %u * s)

A value is rounded with one step for all of its channels: one that is a hundred times smaller than the largest has two
codes left. What lies between the layers must keep positive factors, f(s x) = s f(x): ReLU, leaky ReLU, PReLU, pooling,
padding by zero. A clamp at another end than zero (ReLU6) keeps none: it would need an end for each channel.

The factors are one of

    weights      sqrt(r / v)    r, v: a channel's largest weights in the first and in the second layers; of a norm
                                r = 3 |gamma| + |beta|, what it may give
    both         sqrt(a / v)    a: the channel's largest value on data
    activations  a

Several layers may read the first one. The first kind is cross-layer equalization (Nagel et al. 2019, "Data-Free
Quantization Through Weight Equalization and Bias Correction", section 4.1), the second is what SmoothQuant migrates
(Xiao et al. 2023), from norms above all. Which of them helps depends on what has a scale for each channel anyway; so,
where there are data, each is tried on every pair with weights and values rounded, and the best is taken, unless inputs
that nothing was fitted to lose by it.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fxquant import observers
from fxquant.arguments import int_arg, node_arg
from fxquant.equalized import Divided, note_divided
from fxquant.gains import Gain, decibels, noise_power, note_gain
from fxquant.graph import add_constant, clean, constant_value
from fxquant.passes.layer_pairs import Pair, bias_place, is_norm, pairs, weight_place
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
        """Case 1: a layer that layers alone read. Case 2: a norm; batch norms are folded before."""
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
        walk = Walk(module, trials.all, {pair.seconds[-1]: pair.reads for pair in found})
        by_last = {pair.seconds[-1]: pair for pair in found}
        before, after, kept = [], [], 0
        for node in walk:
            if node not in by_last:
                continue
            trial = _Trial(module, by_last[node], walk, len(trials.fit), self.recipe)
            factors = trial.best()
            before.append(trial.judged(None))
            after.append(before[-1])
            if factors is not None and (judged := trial.judged(factors)) < before[-1]:
                _divide(module, by_last[node], factors, walk)
                after[-1] = judged
                kept += 1
        told = tuple(decibels(1.0, sum(noise) / len(found)) for noise in (before, after))
        note_gain(module, Gain(self.name, len(found), kept, "their layers", told[0], told[1]))


class _Trial:
    """A layer and those that read it, run with weights and the value between them rounded."""

    def __init__(self, module: fx.GraphModule, pair: Pair, walk: Walk, count: int, recipe: Recipe) -> None:
        self.module, self.pair, self.walk, self.count = module, pair, walk, count
        careful, layers = sensitive(module.graph), (pair.first, *pair.seconds)
        self.weights = {layer: recipe.weight_for(layer, layer in careful) for layer in layers}
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
        powers: dict[fx.Node, list[tuple[float, float]]] = {second: [] for second in self.pair.seconds}
        for batch in batches:
            value = middle[batch] if fitting else self._between(batch, constants)
            given = constants | {self.pair.last: qparams.rounded(value)}
            for second, found in powers.items():
                result = self.walk.value(second, batch, given)
                found.append(noise_power(self.walk.values[second][batch], result))
        return sum(map(_share, powers.values())) / len(powers)

    def _between(self, batch: int, constants: dict[fx.Node, Tensor]) -> Tensor:
        """The value between the layers."""
        given = dict(constants)
        for node in self.pair.path:
            given[node] = self.walk.value(node, batch, given)
        return given[self.pair.last]

    def _rounded(self, factors: Tensor) -> dict[fx.Node, Tensor]:
        """The constants of all layers with these factors, weights rounded."""
        return {
            node_arg(layer, place): _fake(value, self.weights[layer])
            if place == weight_place(layer) and not is_norm(layer)
            else value
            for layer, place, value in _divided(self.module, self.pair, factors)
        }


def _share(powers: list[tuple[float, float]]) -> float:
    signal, noise = (sum(column) for column in zip(*powers, strict=True))
    return noise / signal if signal else 0.0


def _fake(weight: Tensor, scheme: Scheme) -> Tensor:
    observer = observers.make(scheme)
    observer(weight)
    return observer.qparams().rounded(weight)


def _largest(batches: Sequence[Tensor], axis: int) -> Tensor:
    """The largest magnitude of each channel, float64."""
    found = [batch.movedim(axis, 0).flatten(1).abs().amax(1) for batch in batches]
    return torch.stack(found).amax(0).double()


def _by_weights(module: fx.GraphModule, pair: Pair) -> Tensor:
    rows, columns = _rows(module, pair.first), _columns(module, pair)
    return _factors(torch.sqrt(rows / columns), rows * columns)


def _rows(module: fx.GraphModule, first: fx.Node) -> Tensor:
    """The largest magnitude of a layer's weights for each channel; of a norm that of what it gives, by and large."""
    weight, bias = (
        0.0 if place is None else constant_value(module, node_arg(first, place)).double().abs()
        for place in (weight_place(first), bias_place(first))
    )
    assert isinstance(weight, Tensor)  # a pair has weights
    return 3 * weight + bias if is_norm(first) else weight.flatten(1).amax(1)


def _factors(raw: Tensor, known: Tensor) -> Tensor:
    """`raw` around a geometric mean of one, within limits; a channel of which nothing is `known` (0) gets one."""
    whole = known > 0
    logs = torch.where(whole, torch.log2(torch.where(whole, raw, 1.0)), 0.0)
    middle = logs[whole].mean() if bool(whole.any()) else 0.0
    limit = torch.log2(torch.tensor(FURTHEST)).item()
    return torch.where(whole, torch.exp2((logs - middle).clamp(-limit, limit)), 1.0)


def _grouped(second: fx.Node, weight: Tensor) -> Tensor:
    """A second layer's weight as (groups, out / groups, in / groups, taps)."""
    groups = int_arg(second, "groups") if weight.ndim > 2 else 1
    return weight.reshape(groups, weight.shape[0] // groups, weight.shape[1], -1)


def _columns(module: fx.GraphModule, pair: Pair) -> Tensor:
    """The largest magnitude of the second layers' weights for each channel that they read."""
    found = []
    for second in pair.seconds:
        weight = constant_value(module, node_arg(second, 1)).double()
        found.append(_grouped(second, weight).abs().amax((1, 3)).flatten())
    return torch.stack(found).amax(0)


def _divided(module: fx.GraphModule, pair: Pair, factors: Tensor) -> Iterator[tuple[fx.Node, int, Tensor]]:
    """Weight and bias of the first layer, and weights of the second ones, with these factors, by their places."""
    first, bias = pair.first, bias_place(pair.first)
    for place in (weight_place(first), *([] if bias is None else [bias])):
        value = constant_value(module, node_arg(first, place)).double()
        yield first, place, (value / factors.reshape(-1, *[1] * (value.ndim - 1))).float()
    for second in pair.seconds:
        value = constant_value(module, node_arg(second, 1)).double()
        grouped = _grouped(second, value)
        columns = grouped * factors.reshape(grouped.shape[0], 1, -1, 1)
        yield second, 1, columns.reshape(value.shape).float()


def _divide(module: fx.GraphModule, pair: Pair, factors: Tensor, walk: Walk | None = None) -> None:
    """Take the factors into the layers, and into what a walk knows of the values between them."""
    for layer, place, value in list(_divided(module, pair, factors)):
        with module.graph.inserting_before(layer):
            role = "weight" if place == weight_place(layer) else "bias"
            layer.update_arg(place, add_constant(module, value, f"{layer.name}_{role}"))
    for node in pair.path:
        note_divided(module, name_of(node), pair.axis, factors)
        if walk is not None:
            divided = Divided(pair.axis, tuple(factors.tolist()))
            walk.values[node] = [divided.of(value) for value in walk.values[node]]
