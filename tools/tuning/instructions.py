"""The meter of standalone code: instructions of every layer under emulation.

One run counts all layers, in the very code that they are used in. Counts are exact, so that the same search always
finds the same.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from torch import fx

from fxquant.errors import TargetError
from fxquant.target import Target
from fxquant.targets.kernels.choosing import Choose, Offer, modelled
from fxquant.targets.kernels.contract.template import Candidate
from fxquant.targets.lowering import lower
from fxquant.targets.standalone.export import standalone
from fxquant.tools.emulate.programs import EmulationError, require
from fxquant.tools.emulate.run import emulate
from fxquant.tools.tuning.search import Costs, Recorder


@dataclass
class CountedTrial:
    """Instructions of the layers that had a choice; of all others together it is the last."""

    picked: list[tuple[Offer, Candidate]]
    counts: Costs

    def close(self) -> None:
        """Nothing is held."""


class Instructions:
    """Counts of a graph with integer ports.

    Raises TargetError for a target whose instructions nobody counts, EmulationError where its programs are missing, or
    where a tile's integers are not Python's.
    """

    # Counts have no noise.
    gain = 1.0

    def __init__(self, module: fx.GraphModule, target: Target) -> None:
        if target.form not in ("static", "shared") or target.toolchain is None or not target.toolchain.emulator:
            raise TargetError(
                f"tiles are searched by counting instructions under emulation, and nobody counts those of {target.name}"
            )
        require(target)
        self.module, self.target, self.title = module, target, f"tiles for {target.name}"

    def offers(self) -> list[Offer]:
        """Nothing is built."""
        recorder = Recorder(modelled)
        lower(self.module, self.target, recorder)
        return [offer for offer, _ in recorder.picked]

    def trial(self, choose: Choose) -> CountedTrial:
        """Build it, run it, and count."""
        recorder = Recorder(choose)
        made = standalone(self.module, self.target, "net", marked=True, choose=recorder)
        run = emulate(made.files, made.name, made.report, self.target)
        if run.wrong or run.layers is None:
            raise EmulationError(
                f"{run.wrong} elements that these tiles compute for {self.target.name} differ from Python's: a bug in "
                f"fxquant or in the toolchain; report it: {[candidate for _, candidate in recorder.picked]}"
            )
        layers = zip(run.layers, made.report["layers"], strict=True)
        return CountedTrial(
            recorder.picked, np.array([n for n, layer in layers if layer["tile"] is not None], np.float64)
        )

    def costs(self, one: CountedTrial, other: CountedTrial) -> tuple[Costs, Costs]:
        """As they were counted."""
        return one.counts, other.counts
