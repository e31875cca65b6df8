"""What a standalone model costs, measured under emulation before anybody flashes it."""

from __future__ import annotations

import json
from dataclasses import replace

from torch import fx

from fxquant.targets.kernels.choosing import Choose, modelled
from fxquant.targets.standalone.export import Standalone, standalone
from fxquant.tools.emulate.programs import EmulationError
from fxquant.tools.emulate.run import emulate


def measured(made: Standalone, module: fx.GraphModule, choose: Choose = modelled) -> Standalone:
    """`made`, which `module` (with integer ports) and `choose` gave, its report with instructions and depth of stack.

    The files themselves are run; instructions by layer come from the same code with a mark between layers. What this
    machine runs without an emulator has no instructions: they stay None. Raises EmulationError where it cannot be run,
    or where its integers are not Python's.
    """
    run = emulate(made.files, made.name, made.report, made.target)
    if run.wrong:
        raise EmulationError(
            f"{run.wrong} elements that {made.name} computes for {made.target.name} differ from Python's: a bug in "
            "fxquant or in the toolchain; report it, and do not use this code"
        )
    layers = list(made.report["layers"])
    if run.instructions is not None:
        form = made.report["form"]
        marked = standalone(module, made.target, made.name, sources=form == "sources", marked=True, choose=choose)
        counts = emulate(marked.files, made.name, marked.report, made.target).layers or (None,) * len(layers)
        layers = [{**layer, "instructions": count} for layer, count in zip(layers, counts, strict=True)]
    training = made.report["training"]
    if training is not None:
        training = {**training, "instructions": run.step}
    found = {"training": training, "instructions": run.instructions, "stack_bytes": run.stack_bytes, "layers": layers}
    report = {**made.report, **found}
    return replace(made, report=report, files={**made.files, "report.json": json.dumps(report, indent=1) + "\n"})
