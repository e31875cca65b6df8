"""The search: every convolution's and linear layer's candidates are timed in the network itself, on this CPU.

    trial k    the network with candidate k of every layer, run in turn with the network as the cost model would have it

One run times all layers at once, with the caches as their neighbours leave them. A layer's candidate is judged by its
time over that of the model's choice in the same rounds, so that what else the machine does counts for both. Whatever is
found must make the whole network faster, or is dropped.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
from torch import fx

from fxquant.errors import TargetError
from fxquant.progress import track
from fxquant.runtime.host import host_features, host_machine
from fxquant.target import Target
from fxquant.targets.hosted.profile import Stamped
from fxquant.targets.kernels.choosing import Candidate, Offer, Select
from fxquant.targets.kernels.words.x86 import ISAS
from fxquant.targets.lowering import lower
from fxquant.targets.lowering.library import library
from fxquant.tools.tuning.database import Database

ROUNDS = 25
# A candidate must be so much faster: less is noise.
GAIN = 0.98

Times = np.ndarray[Any, Any]


@dataclass
class _Recorder:
    """Remembers what was on offer and what was picked, in the order of the layers."""

    select: Select
    picked: list[tuple[Offer, Candidate]] = field(default_factory=list)

    def __call__(self, offer: Offer) -> Candidate:
        """Pick, and remember."""
        self.picked.append((offer, self.select(offer)))
        return self.picked[-1][1]


class _Trial:
    """The network with one choice of candidates, compiled so that it tells the time of its layers."""

    def __init__(self, module: fx.GraphModule, target: Target, threads: int, select: Select) -> None:
        recorder = _Recorder(select)
        program = lower(module, library(target.isa, select=recorder), target.s8_bias)
        self.stamped = Stamped(program, target, threads)
        self.picked = recorder.picked
        self.places = [i for i, call in enumerate(self.stamped.calls) if "tile" in call.facts]

    def close(self) -> None:
        """End its threads."""
        self.stamped.close()


def tuned(
    module: fx.GraphModule,
    target: Target,
    minutes: float,
    known: Database,
    *,
    threads: int = 1,
    progress: bool = True,
) -> Database:
    """`known` with the best candidates of an INTEGER graph's layers, as far as `minutes` go.

    Layers that `known` has are not measured again. Raises TargetError for a target that this CPU does not run, or that
    has no candidates.
    """
    _require(target, minutes)
    deadline = time.perf_counter() + 60 * minutes
    inputs = _inputs(module)
    base = _Trial(module, target, threads, known.select)
    try:
        missing = {offer.key: offer for offer, _ in base.picked if known.get(offer) is None}
        best: dict[str, tuple[float, Candidate]] = {key: (1.0, offer.first()) for key, offer in missing.items()}
        for number in _within(max((len(o.all()) for o in missing.values()), default=1), deadline, target, progress):
            for key, (ratio, candidate) in _tried(module, target, threads, inputs, base, missing, number).items():
                if ratio < min(GAIN, best[key][0]):
                    best[key] = (ratio, candidate)
        found = {key: candidate for key, (ratio, candidate) in best.items() if ratio < 1.0}
        if found and not _is_faster(module, target, threads, inputs, base, found):
            found = {}
        for key, offer in missing.items():
            known.put(offer, found.get(key, offer.first()))
    finally:
        base.close()
    return known


def _require(target: Target, minutes: float) -> None:
    if not 0 < minutes < 24 * 60:
        raise TargetError(f"tune takes minutes, more than none and less than a day, not {minutes}")
    runs = host_machine() == target.machine and set(target.cpu_features) <= host_features()
    if target.isa not in ISAS or not runs:
        raise TargetError(
            f"tuning measures time, and this machine does not run {target.name}: tune there, and compile here with the "
            "tiles that it wrote"
            if target.isa in ISAS
            else f"{target.name} has one kernel for each layer: there is nothing to tune"
        )


def _within(count: int, deadline: float, target: Target, progress: bool) -> Iterator[int]:
    """The numbers of the trials, the first candidate left out, as long as there is time for another one."""
    longest = 0.0
    for number in track(range(1, count), f"tiles for {target.name}", progress):
        started = time.perf_counter()
        if started + longest > deadline:
            return
        yield number
        longest = max(longest, time.perf_counter() - started)


def _tried(
    module: fx.GraphModule,
    target: Target,
    threads: int,
    inputs: Sequence[Any],
    base: _Trial,
    missing: dict[str, Offer],
    number: int,
) -> dict[str, tuple[float, Candidate]]:
    """For every problem that has so many candidates: time over that of the base, and the candidate."""

    def select(offer: Offer) -> Candidate:
        several = offer.all()
        return several[number] if offer.key in missing and number < len(several) else base_choice[offer.key]

    base_choice = {offer.key: candidate for offer, candidate in base.picked}
    trial = _Trial(module, target, threads, select)
    try:
        mine, theirs = _in_turn(trial, base, inputs)
    finally:
        trial.close()
    sums: dict[str, tuple[float, float, Candidate]] = {}
    for at, other, (offer, candidate) in zip(trial.places, base.places, trial.picked, strict=True):
        if candidate != base_choice[offer.key]:
            spent, before, _ = sums.get(offer.key, (0.0, 0.0, candidate))
            sums[offer.key] = (spent + mine[at], before + theirs[other], candidate)
    return {key: (spent / before, candidate) for key, (spent, before, candidate) in sums.items()}


def _is_faster(
    module: fx.GraphModule,
    target: Target,
    threads: int,
    inputs: Sequence[Any],
    base: _Trial,
    found: dict[str, Candidate],
) -> bool:
    """Whether all that was found makes the network faster together: alone it may have been lucky."""
    chosen = {offer.key: candidate for offer, candidate in base.picked} | found
    together = _Trial(module, target, threads, lambda offer: chosen[offer.key])
    try:
        mine, theirs = _in_turn(together, base, inputs)
    finally:
        together.close()
    return bool(mine.sum() < theirs.sum())


def _in_turn(one: _Trial, other: _Trial, inputs: Sequence[Any]) -> tuple[Times, Times]:
    """Median ticks of every call of two trials that run one after the other, again and again."""
    samples: tuple[list[Times], list[Times]] = ([], [])
    for number in range(ROUNDS + 2):
        for trial, kept in zip((one, other), samples, strict=True):
            trial.stamped.once(inputs)  # warms the caches that the other one took
            ticks = trial.stamped.once(inputs)
            if number >= 2:
                kept.append(ticks)
    first, second = (np.median(np.stack(kept), axis=0) for kept in samples)
    return first, second


def _inputs(module: fx.GraphModule) -> list[Any]:
    """One sample of noise, or of zeros for indices."""
    from fxquant.graph import placeholders
    from fxquant.targets.lowering.shapes import sample_values

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
