"""Stages are the types of a graph: FLOAT -> OBSERVED -> QUANTIZED -> INTEGER; TRAINING is beside the road.

A stage is a list of invariants (see `fxquant.invariants`); every stage is an ordinary GraphModule that runs.
"""

from __future__ import annotations

import enum

from torch import fx

from fxquant.errors import StageError


class Stage(enum.Enum):
    """How far a graph has come."""

    FLOAT = "float"
    OBSERVED = "observed"
    TRAINING = "training"
    QUANTIZED = "quantized"
    INTEGER = "integer"

    def __str__(self) -> str:
        """The name as documentation writes it."""
        return self.name


def stage_of(module: fx.GraphModule) -> Stage:
    """The stage a graph says it is in.

    Raises StageError for anything that did not come from `fxquant.trace`, a model that is not traced yet for one.
    """
    found = getattr(module, "meta", {}).get("fxq.stage")
    if not isinstance(found, str):
        kind = type(module).__name__
        raise StageError(f"this {kind} has no stage: give it to fxquant.trace(model, example_inputs) first")
    return Stage(found)


def set_stage(module: fx.GraphModule, stage: Stage) -> None:
    """Record the stage on the module; plain data, so that it survives copying."""
    module.meta["fxq.stage"] = stage.value
