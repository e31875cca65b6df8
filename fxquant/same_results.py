"""Each pass held to the graph before it, on data: what a pass says it keeps, it keeps."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, fx

from fxquant.calibration import arrange
from fxquant.errors import PassError
from fxquant.graph import outputs
from fxquant.passmanager import Pass
from fxquant.source import describe
from fxquant.stage import Stage, stage_of
from fxquant.wide import is_close, run_wide

# Of the largest value of an output: passes fold constants, which stay float32.
TOLERANCE = 1e-5
_FLOAT = (Stage.FLOAT, Stage.OBSERVED)


class SameResults:
    """An `observe` hook that compares the graph after every pass with the graph before it.

        fxquant.prepare(graph, observe=SameResults(graph, x))

    `graph` is what the pipeline is given, `inputs` what it takes: a tensor, a tuple, or a dict by name. Up to OBSERVED,
    where passes must not change what is computed, both run in float64 and may differ by `tolerance` of the largest
    value of an output; of INTEGER graphs every integer must stay. Between these, values are rounded: nothing is
    compared. Raises PassError with the pass and the output.
    """

    def __init__(self, graph: fx.GraphModule, inputs: Any, tolerance: float = TOLERANCE) -> None:
        self.inputs = arrange(graph, inputs, "the input to compare results on")
        self.tolerance = tolerance
        self._take(graph)

    def __call__(self, step: Pass, module: fx.GraphModule) -> None:
        """Compare, and remember the graph's results for the next pass."""
        before, stage = self.results, self.stage
        self._take(module)
        if stage is self.stage is Stage.INTEGER or (stage in _FLOAT and self.stage in _FLOAT):
            self._compare(step, module, before)

    def _take(self, module: fx.GraphModule) -> None:
        self.stage = stage_of(module)
        if self.stage in _FLOAT:
            self.results = run_wide(module, self.inputs)
        elif self.stage is Stage.INTEGER:
            with torch.no_grad():
                found = module(*self.inputs)
            self.results = list(found) if isinstance(found, (tuple, list)) else [found]

    def _compare(self, step: Pass, module: fx.GraphModule, before: list[Tensor]) -> None:
        if len(before) != len(self.results):
            raise PassError(f"{step.name} gives {len(self.results)} outputs, where there were {len(before)}")
        tolerance = self.tolerance if self.stage in _FLOAT else 0.0
        for node, wanted, found in zip(outputs(module.graph), before, self.results, strict=True):
            if not is_close(found, wanted, tolerance):
                raise PassError(
                    f"{step.name} changes what the graph computes: the output {describe(node)} {_apart(wanted, found)}"
                )


def _apart(wanted: Tensor, found: Tensor) -> str:
    if wanted.shape != found.shape or wanted.dtype != found.dtype:
        return f"was {wanted.dtype} {tuple(wanted.shape)} and is {found.dtype} {tuple(found.shape)}"
    differences = torch.nan_to_num((found.double() - wanted.double()).abs(), nan=torch.inf)
    at = int(differences.flatten().argmax())
    return f"was {wanted.flatten()[at]:.6g} and is {found.flatten()[at]:.6g} where it differs most"
