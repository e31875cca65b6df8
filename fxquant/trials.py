"""Calibration data for passes that fit something to it: a part to fit to, and another to judge the result by.

What helps on the inputs that it was fitted to need not help on others. So a pass fits to some inputs, and keeps what it
did only where the others say that it helped, too.
"""

from __future__ import annotations

import random
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.calibration import arrange
from fxquant.errors import CalibrationError
from fxquant.graph import placeholders

Batch = list[Tensor]

# Inputs that are kept. All values that a layer reads are held for all of them at a time.
SAMPLES = 64
# One in so many judges.
JUDGES = 4
# Samples in a batch; of graphs with a fixed batch that one.
SIZE = 16


@dataclass(frozen=True)
class Trials:
    """Batches to `fit` to, and others to `judge` by; both have at least one."""

    fit: tuple[Batch, ...]
    judge: tuple[Batch, ...]

    @property
    def all(self) -> tuple[Batch, ...]:
        """Those to fit to, then those to judge by."""
        return (*self.fit, *self.judge)


def as_trials(graph: fx.GraphModule, data: Trials | Iterable[Any], samples: int = SAMPLES) -> Trials:
    """Trials as they are, or `samples` inputs of `data` (as for `calibrate`), chosen evenly by a fixed lot.

    The choice depends on the inputs and their order, not on how a loader has cut them into batches, and memory not on
    how many there are. Raises CalibrationError for inputs that do not fit, and fewer than two samples.
    """
    return data if isinstance(data, Trials) else _split(graph, _drawn(_samples(graph, data), samples))


def _samples(graph: fx.GraphModule, data: Iterable[Any]) -> Iterator[Batch]:
    """One by one, where the graph's batch is free; else as many at a time as it takes."""
    several = _is_free(graph)
    for number, item in enumerate(data):
        inputs = arrange(graph, item, f"calibration input {number}")
        count = len(inputs[0]) if several else 1
        for place in range(count):
            yield [x[place : place + 1].clone() for x in inputs] if several else inputs


def _is_free(graph: fx.GraphModule) -> bool:
    values = [node.meta["val"] for node in placeholders(graph.graph)]
    return bool(values) and all(value.ndim and isinstance(value.shape[0], torch.SymInt) for value in values)


def _drawn(samples: Iterable[Batch], count: int) -> list[Batch]:
    """Vitter's reservoir: of any number of samples, each has the same chance; kept in their order."""
    draw, kept = random.Random(0), dict[int, Batch]()
    for number, sample in enumerate(samples):
        if number < count:
            kept[number] = sample
        elif (place := draw.randrange(number + 1)) < count:
            del kept[sorted(kept)[place]]
            kept[number] = sample
    return [kept[number] for number in sorted(kept)]


def _split(graph: fx.GraphModule, samples: list[Batch]) -> Trials:
    if len(samples) < 2:
        raise CalibrationError(f"{len(samples)} calibration inputs are too few: some are to fit to, some to judge by")
    judges = samples[JUDGES - 1 :: JUDGES] or samples[-1:]
    judging = {id(sample) for sample in judges}
    fit = [sample for sample in samples if id(sample) not in judging]
    join = _joined if _is_free(graph) else list
    return Trials(tuple(join(fit)), tuple(join(judges)))


def _joined(samples: list[Batch]) -> list[Batch]:
    groups = [samples[start : start + SIZE] for start in range(0, len(samples), SIZE)]
    return [[torch.cat(parts) for parts in zip(*group, strict=True)] for group in groups]
