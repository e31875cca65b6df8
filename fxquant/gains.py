"""What passes for accuracy gained: each of them writes it on the graph, for reports to read."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

GAINS = "fxq.gains"

# What stands for "no error at all", so that JSON needs no infinity.
EXACT_DB = 300.0


@dataclass(frozen=True)
class Gain:
    """What one pass did: of `places` where its pattern occurs it changed `kept`, the others it left as they were.

    `before` and `after` are of what `measure` names, in `unit`: SQNR on inputs that nothing was fitted to. `note` says
    in a sentence what there is to know besides: why nothing was done, or that all was undone.
    """

    step: str
    places: int
    kept: int
    measure: str
    before: float
    after: float
    note: str = ""
    unit: str = "dB"

    def __str__(self) -> str:
        """'CorrectBiases: 19 of 20 layers, outputs 28.1 -> 30.2 dB'."""
        told = f"{self.step}: {self.kept} of {self.places}"
        if self.kept:
            told += f", {self.measure} {self.before:.1f} -> {self.after:.1f} {self.unit}".rstrip()
        return f"{told}; {self.note}" if self.note else told


def note_gain(module: fx.GraphModule, gain: Gain) -> None:
    """Write down on the graph what a pass gained."""
    module.meta[GAINS] = (*gains_of(module), gain)


def gains_of(module: fx.GraphModule) -> tuple[Gain, ...]:
    """What passes noted on the graph, in order."""
    return tuple(module.meta.get(GAINS, ()))


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), at most EXACT_DB and at least its negative."""
    if noise == 0.0 or signal == 0.0:
        return EXACT_DB if noise == 0.0 else -EXACT_DB
    return max(-EXACT_DB, min(EXACT_DB, 10.0 * math.log10(signal / noise)))


def noise_power(real: Tensor, found: Tensor) -> tuple[float, float]:
    """Sums of squares of `real` and of its difference to `found`, to the precision of float32."""
    real, found = real.float(), found.float()  # outputs may be classes, or truths
    return float(torch.linalg.vector_norm(real)) ** 2, float(torch.linalg.vector_norm(real - found)) ** 2


def output_noise(real: Sequence[Sequence[Tensor]], found: Sequence[Sequence[Tensor]]) -> float:
    """The noise of all outputs (of each its batches), each as a share of its own signal, on the average."""
    shares = []
    for wanted, got in zip(real, found, strict=True):
        powers = [noise_power(a, b) for a, b in zip(wanted, got, strict=True)]
        signal, noise = (sum(column) for column in zip(*powers, strict=True))
        shares.append(noise / signal if signal else float(noise > 0.0))
    return sum(shares) / len(shares) if shares else 0.0
