"""The search: candidates of every convolution and linear layer are measured in the network itself.

    trial k    the network with candidate k of every layer, beside the network as it would be without a search

One run measures all layers at once, with the caches and registers that their neighbours leave. A layer's candidate is
judged by its cost over that of the choice before. Whatever is found must make the whole network cheaper, or is dropped:
what is best alone may not be best together. What is measured, and how, is the meter's: see `ticks` and `instructions`.
"""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import closing
from dataclasses import dataclass, field
from typing import Any, Protocol

import numpy as np

from fxquant.progress import track
from fxquant.targets.kernels.choosing import Choose, Offer
from fxquant.targets.kernels.contract.template import Candidate
from fxquant.tools.tuning.database import Database

Costs = np.ndarray[Any, Any]


@dataclass
class Recorder:
    """Remembers what was on offer and what was picked, in the order of the layers."""

    choose: Choose
    picked: list[tuple[Offer, Candidate]] = field(default_factory=list)

    def __call__(self, offer: Offer) -> Candidate:
        """Pick, and remember."""
        self.picked.append((offer, self.choose(offer)))
        return self.picked[-1][1]


class Trial(Protocol):
    """The network with one choice of candidates; `picked` are those, in the order of their layers."""

    picked: list[tuple[Offer, Candidate]]

    def close(self) -> None:
        """Give back what it holds."""


class Meter(Protocol):
    """What candidates cost. One must cost less than `gain` times the choice before it to be taken: less is noise."""

    gain: float
    title: str

    def offers(self) -> list[Offer]:
        """What there is to choose, layer by layer, as far as lowering alone tells."""

    def trial(self, choose: Choose) -> Trial:
        """The network, ready to be measured."""

    def costs(self, one: Any, other: Any) -> tuple[Costs, Costs]:
        """Of the layers of two trials, in the order of `picked`, under the same conditions."""


def tuned(meter: Meter, known: Database, *, seconds: float = float("inf"), progress: bool = True) -> Database:
    """`known` with the best candidates of the network's layers, as far as `seconds` go.

    Layers that `known` has are not measured again.
    """
    deadline = time.perf_counter() + seconds
    missing = {offer.key: offer for offer in meter.offers() if known.get(offer) is None}
    if not missing:
        return known
    with closing(meter.trial(known.choose)) as base:
        best: dict[str, tuple[float, Candidate]] = {key: (1.0, offer.first()) for key, offer in missing.items()}
        most = max((len(offer.all()) for offer in missing.values()), default=1)
        for number in _within(most, deadline, meter.title, progress):
            for key, (ratio, candidate) in _tried(meter, base, missing, number).items():
                if ratio < min(meter.gain, best[key][0]):
                    best[key] = (ratio, candidate)
        found = {key: candidate for key, (ratio, candidate) in best.items() if ratio < 1.0}
        if found and not _is_cheaper(meter, base, found):
            found = {}
        for key, offer in missing.items():
            known.put(offer, found.get(key, offer.first()))
    return known


def _within(count: int, deadline: float, title: str, progress: bool) -> Iterator[int]:
    """The numbers of the trials, the first candidate left out, as long as there is time for another one."""
    longest = 0.0
    for number in track(range(1, count), title, progress):
        started = time.perf_counter()
        if started + longest > deadline:
            return
        yield number
        longest = max(longest, time.perf_counter() - started)


def _tried(meter: Meter, base: Trial, missing: dict[str, Offer], number: int) -> dict[str, tuple[float, Candidate]]:
    """For every problem that has so many candidates: its cost over that of the base, and the candidate."""
    before = {offer.key: candidate for offer, candidate in base.picked}

    def choose(offer: Offer) -> Candidate:
        several = offer.all()
        return several[number] if offer.key in missing and number < len(several) else before[offer.key]

    with closing(meter.trial(choose)) as trial:
        mine, theirs = meter.costs(trial, base)
    sums: dict[str, tuple[float, float, Candidate]] = {}
    for cost, other, (offer, candidate) in zip(mine, theirs, trial.picked, strict=True):
        if candidate != before[offer.key]:
            spent, was, _ = sums.get(offer.key, (0.0, 0.0, candidate))
            sums[offer.key] = (spent + cost, was + other, candidate)
    return {key: (spent / was, candidate) for key, (spent, was, candidate) in sums.items()}


def _is_cheaper(meter: Meter, base: Trial, found: dict[str, Candidate]) -> bool:
    """Whether all that was found makes the network cheaper together: alone it may have been lucky."""
    chosen = {offer.key: candidate for offer, candidate in base.picked} | found
    with closing(meter.trial(lambda offer: chosen[offer.key])) as together:
        mine, theirs = meter.costs(together, base)
    return bool(mine.sum() < theirs.sum())
