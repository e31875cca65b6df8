"""Which layers have ranges of run time and which fixed ones, where the recipe left that to data; for reports."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

CHOICES = "fxq.choices"


@dataclass(frozen=True)
class Choice:
    """Whether the ranges of `layer` are found at run time, and why.

    `gain` says by how many dB less noise its result has with each sample's own range than with a fixed one, as the mean
    over samples that the fixed one was not found from; 0 where nothing was measured.
    """

    layer: str
    dynamic: bool
    gain: float
    reason: str

    def __str__(self) -> str:
        """'blocks.0.proj: a range of run time, because ...'."""
        return f"{self.layer}: {'a range of run time' if self.dynamic else 'a fixed range'}, because {self.reason}"


def choices_of(module: fx.GraphModule) -> tuple[Choice, ...]:
    """What was chosen for the graph, in the order of its layers."""
    return tuple(module.meta.get(CHOICES, ()))


def choice_of(module: fx.GraphModule, *layers: str) -> Choice | None:
    """What was chosen for one of these layers."""
    return next((choice for choice in choices_of(module) if choice.layer in layers), None)
