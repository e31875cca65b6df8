"""The meter of hosted code: the time of every layer on this very CPU, two networks in turn.

What else the machine does counts for both.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from torch import fx

from fxquant.errors import TargetError
from fxquant.graph import placeholders
from fxquant.runtime.host import host_features, host_machine
from fxquant.target import Target
from fxquant.targets.batch import sample_values
from fxquant.targets.hosted.profile import Stamped
from fxquant.targets.kernels.choosing import Choose, Offer, modelled
from fxquant.targets.lowering import lower
from fxquant.tools.tuning.search import Costs, Recorder

ROUNDS = 25


class TimedTrial:
    """The network, compiled so that it tells the time of its layers."""

    def __init__(self, module: fx.GraphModule, target: Target, threads: int, choose: Choose) -> None:
        recorder = Recorder(choose)
        self.stamped = Stamped(lower(module, target, recorder), target, threads)
        self.picked = recorder.picked
        self.places = [i for i, call in enumerate(self.stamped.calls) if "tile" in call.facts]

    def close(self) -> None:
        """End its threads."""
        self.stamped.close()


class Ticks:
    """Median ticks of layers. Raises TargetError for a target that this CPU does not run, or of one kernel a layer."""

    # A candidate must be so much faster.
    gain = 0.98

    def __init__(self, module: fx.GraphModule, target: Target, threads: int = 1) -> None:
        _require(target)
        self.module, self.target, self.threads = module, target, threads
        self.title = f"tiles for {target.name}"
        self.inputs = _inputs(module)

    def offers(self) -> list[Offer]:
        """Nothing is compiled."""
        recorder = Recorder(modelled)
        lower(self.module, self.target, recorder)
        return [offer for offer, _ in recorder.picked]

    def trial(self, choose: Choose) -> TimedTrial:
        """Compile it."""
        return TimedTrial(self.module, self.target, self.threads, choose)

    def costs(self, one: TimedTrial, other: TimedTrial) -> tuple[Costs, Costs]:
        """Of the layers that had a choice."""
        mine, theirs = in_turn(one, other, self.inputs)
        return mine[one.places], theirs[other.places]


def in_turn(one: TimedTrial, other: TimedTrial, inputs: Sequence[Any]) -> tuple[Costs, Costs]:
    """Median ticks of every call of two trials that run one after the other, again and again."""
    samples: tuple[list[Costs], list[Costs]] = ([], [])
    for number in range(ROUNDS + 2):
        for trial, kept in zip((one, other), samples, strict=True):
            trial.stamped.once(inputs)  # warms the caches that the other one took
            ticks = trial.stamped.once(inputs)
            if number >= 2:
                kept.append(ticks)
    first, second = (np.median(np.stack(kept), axis=0) for kept in samples)
    return first, second


def _require(target: Target) -> None:
    if target.form != "hosted":
        raise TargetError(
            f"tuning measures the time of hosted code, and {target.name} has none: export(..., tune=True) counts "
            "instructions, where an emulator tells them"
        )
    if host_machine() != target.machine or not set(target.cpu_features) <= host_features():
        raise TargetError(
            f"tuning measures time, and this machine does not run {target.name}: tune there, and compile here with the "
            "tiles that it wrote"
        )


def _inputs(module: fx.GraphModule) -> list[Any]:
    """One sample of noise, or of zeros for indices."""
    values = sample_values(module)
    rng = np.random.default_rng(0)
    made = []
    for node in placeholders(module.graph):
        value = values[node]
        shape = tuple(value.shape)
        if value.dtype.is_floating_point:
            made.append(rng.standard_normal(shape).astype(np.float32))
        else:
            made.append(np.zeros(shape, str(value.dtype).removeprefix("torch.")))
    return made
