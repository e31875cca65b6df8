"""Choose every value's range by what the layers that read it make of the error.

    %c_observer = observe(%c)  # minmax   =>   %c_observer = observe(%c)  # of several kinds the one that costs least

A range that clips gives the other values a finer step, and which of the two errors weighs more is no matter of the
value alone: a layer may hardly read the channel that has the outliers, or live by it. So the value is rounded by each
range in question, every operation that reads it computes its result from that, and the range with the least error of
results is taken: what EasyQuant (Wu et al. 2020) and PTQ4ViT (Yuan et al. 2021) do layer by layer. The recipe's own
observer stays where no other is better, and where inputs that nothing was fitted to lose by the other.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from fxquant import observers
from fxquant.gains import Gain, decibels, note_gain
from fxquant.graph import is_float, reads_values
from fxquant.observers.base import Observer
from fxquant.observers.clipping import Clipping
from fxquant.passmanager import Pass
from fxquant.plan import is_integer
from fxquant.qparams import QParams
from fxquant.stage import Stage
from fxquant.trials import SAMPLES, as_trials
from fxquant.walk import Walk

# Ranges that clip more and more, and the two that weigh a histogram: all of them read it, or the extremes beside it.
AMONG = ("minmax", *(f"shrunk:{share}" for share in (0.85, 0.7, 0.55, 0.4, 0.25, 0.12)), "percentile:99.99", "mse")

# A range that makes so many times the noise of a value's own on the first batch is not tried on the others.
FAR = 4.0


@dataclass(frozen=True)
class FitRanges(Pass):
    """Choose every value's range by what the layers that read it make of the error.

    `data` are inputs as for `calibrate`, or Trials; `samples` of them are looked at, besides what the observers have
    seen. `among` are the observers that each value's own competes with.
    """

    needs: ClassVar[Stage] = Stage.OBSERVED
    gives: ClassVar[Stage] = Stage.OBSERVED
    data: Any = field(repr=False)
    samples: int = SAMPLES
    among: tuple[str, ...] = AMONG

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: a value with an observer of its own. Scores and masks end where softmax does, and are left alone."""
        trials = as_trials(module, self.data, self.samples)
        walk, contests = Walk(module, trials.all), dict[fx.Node, _Contest]()
        for node in walk:
            if (contest := self._contest(module, walk, node, len(trials.fit))) is not None:
                contests[node] = contest
            for operand in dict.fromkeys(node.all_input_nodes):
                if operand in contests and reads_values(node):
                    contests[operand].hear(walk, node)
        kept = sum(contest.decide(module) for contest in contests.values())
        before, after = (_mean([c.judged(own=own) for c in contests.values()]) for own in (True, False))
        note = "" if contests else "no value has a range that is observed"
        told = "what reads them", decibels(1.0, before), decibels(1.0, after)
        note_gain(module, Gain(self.name, len(contests), kept, *told, note))
        return module

    def _contest(self, module: fx.GraphModule, walk: Walk, node: fx.Node, count: int) -> _Contest | None:
        found = module.get_submodule(str(node.target)) if node.op == "call_module" else None
        if not isinstance(found, Observer) or found.look is not None or found.empty:
            return None
        return _Contest(node, found, list(_others(found, walk.values[node][:count], self.among)), count)


class _Contest:
    """The ranges in question for one value, the observer's own first, and the error that each made of its readers."""

    def __init__(self, node: fx.Node, own: Observer, others: list[Observer], count: int) -> None:
        self.node, self.count = node, count
        self.ranges: dict[QParams, Observer] = {own.qparams(): own}
        for other in others:
            self.ranges.setdefault(other.qparams(), other)
        self.fit, self.judge = dict.fromkeys(self.ranges, 0.0), dict.fromkeys(self.ranges, 0.0)
        self.own = self.chosen = next(iter(self.ranges))
        self.heard, self.bar = 0, 0.0

    def hear(self, walk: Walk, reader: fx.Node) -> None:
        """What one reader makes of each range."""
        if reader.op != "call_function" or not is_integer(reader) or not is_float(reader) or len(self.ranges) == 1:
            return
        self.heard += 1
        batches = range(len(walk.batches))
        signal = [_power(walk.values[reader][batch]) for batch in batches]
        for qparams in list(self.ranges):
            noise = [self._noise(walk, reader, batch, qparams) for batch in batches[:1]]
            if self._is_hopeless(qparams, noise[0]):
                del self.ranges[qparams], self.fit[qparams], self.judge[qparams]
                continue
            noise += [self._noise(walk, reader, batch, qparams) for batch in batches[1:]]
            self.fit[qparams] += _share(noise[: self.count], signal[: self.count])
            self.judge[qparams] += _share(noise[self.count :], signal[self.count :])

    def _noise(self, walk: Walk, reader: fx.Node, batch: int, qparams: QParams) -> float:
        rounded = qparams.rounded(walk.values[self.node][batch])
        return _power(walk.value(reader, batch, {self.node: rounded}) - walk.values[reader][batch])

    def _is_hopeless(self, qparams: QParams, noise: float) -> bool:
        """Whether the first batch says enough of a range, which is the own one's to be compared with."""
        if qparams == self.own:
            self.bar = FAR * noise
        return noise > self.bar

    def decide(self, module: fx.GraphModule) -> bool:
        """Put the best observer in the place of the value's own; whether that is another one."""
        best = min(self.fit, key=self.fit.__getitem__)
        if not (self.fit[best] < self.fit[self.own] and self.judge[best] < self.judge[self.own]):
            return False
        self.chosen = best
        module.set_submodule(str(self.node.target), self.ranges[best])
        return True

    def judged(self, *, own: bool) -> float:
        """The readers' noise on the inputs to judge by, as a share of their signal."""
        return self.judge[self.own if own else self.chosen] / max(1, self.heard)


def _others(own: Observer, values: list[Tensor], among: tuple[str, ...]) -> Iterator[Observer]:
    """Observers of these kinds that have seen the values; one histogram does for all."""
    seen = observers.make(own.scheme.with_(observer="mse"), own.where)
    assert isinstance(seen, Clipping)
    for value in values:
        seen(value)
    for name in among:
        other = observers.make(own.scheme.with_(observer=name), own.where)
        known = seen.state()
        if other.state().keys() <= known.keys():
            other.load_state({key: known[key] for key in other.state()})
        else:
            for value in values:
                other(value)
        yield other


def _power(value: Tensor) -> float:
    return float(torch.linalg.vector_norm(value)) ** 2


def _mean(shares: list[float]) -> float:
    return sum(shares) / max(1, len(shares))


def _share(noise: list[float], signal: list[float]) -> float:
    return sum(noise) / sum(signal) if sum(signal) else 0.0
