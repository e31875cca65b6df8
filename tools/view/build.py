"""From graphs, recordings and comparisons to the document that a page shows."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import asdict
from itertools import chain
from typing import Any

import torch
from torch import fx

from fxquant import targets as known
from fxquant.calibration import arrange
from fxquant.errors import FxquantError
from fxquant.stage import Stage as GraphStage
from fxquant.stage import stage_of
from fxquant.target import Target
from fxquant.tools.compare.compare import compare
from fxquant.tools.compare.records import Comparison
from fxquant.tools.fidelity import Ratio, flat, is_one_input
from fxquant.tools.view.analysis import critical_path
from fxquant.tools.view.document import Node, Run, Stage
from fxquant.tools.view.memory import memory_of
from fxquant.tools.view.nodes import nodes_of
from fxquant.tools.view.recorder import Recorder


def run_of(
    subject: fx.GraphModule | Recorder,
    *,
    label: str = "",
    model: Any = None,
    data: Any | Iterable[Any] | None = None,
    comparison: Comparison | None = None,
    targets: Sequence[str | Target] = (),
    progress: bool = True,
) -> Run:
    """One run: all stages of a recording, or the one graph that is given.

    Errors are measured on `data` against `model` (a recording's own first graph, if none is given), unless a
    `comparison` brings them. Raises FxquantError for data without a model, for a recording without graphs, and where
    layers' errors or memory are asked of a graph that is not INTEGER.
    """
    recorder = subject if isinstance(subject, Recorder) else _single(subject)
    if not recorder.stages:
        raise FxquantError("this recording is empty: give the recorder as `observe=` to quantize, prepare or convert")
    # Before anything that takes long: an unknown target is told at once.
    wanted = [known.get(target) for target in targets]
    last, first = recorder.last, recorder.stages[0][1]
    is_integer = _stage(last) == str(GraphStage.INTEGER)
    is_asked = bool(wanted) or comparison is not None or (data is not None and len(recorder.stages) == 1)
    if is_asked and not is_integer:
        raise FxquantError(f"errors and memory are those of an INTEGER graph, this one is {_stage(last)}: quantize it")
    if data is not None and model is None and len(recorder.stages) > 1:
        model = first
    if data is not None and model is None:
        raise FxquantError("errors are measured against a float model: give view(..., model=, data=), or a recording")
    # The first input is needed twice, and a generator gives it once.
    batches = iter([] if data is None else [data] if is_one_input(first, data) else data)
    batch = next(batches, None)
    if data is not None and batch is None:
        raise FxquantError("no data to measure on: the iterable gave nothing; a generator can be used only once")
    if comparison is None and batch is not None and is_integer:
        comparison = compare(model, last, chain([batch], batches), progress=progress)
    pool, stages = _stages(recorder, batch)
    return Run(
        label=label or recorder.label,
        pool=tuple(pool),
        stages=stages,
        made_by=_made_by(pool, stages),
        critical_path=critical_path([pool[n] for n in stages[-1].nodes]),
        memory=tuple(memory_of(last, target) for target in wanted),
        **({} if comparison is None else _measured(comparison)),
    )


def _single(module: fx.GraphModule) -> Recorder:
    recorder = Recorder(label="model")
    recorder.stages.append((_stage(module), module))
    return recorder


def _stage(module: fx.GraphModule) -> str:
    """The stage's name; a GraphModule of somebody else's is drawn too."""
    return str(stage_of(module)) if "fxq.stage" in module.meta else "GRAPH"


def _stages(recorder: Recorder, batch: Any) -> tuple[list[Node], tuple[Stage, ...]]:
    pool: dict[Node, int] = {}
    found: list[Stage] = []
    errors = _output_errors(recorder, batch)
    for (name, module), error in zip(recorder.stages, errors, strict=True):
        places = tuple(pool.setdefault(node, len(pool)) for node in nodes_of(module))
        found.append(Stage(name, _stage(module), places, error))
    return list(pool), tuple(found)


def _output_errors(recorder: Recorder, batch: Any) -> list[float | None]:
    """SQNR of the first output after each pass, on one batch, against the graph before the first of them."""
    if batch is None or len(recorder.stages) < 2:
        return [None] * len(recorder.stages)
    results = [_first_output(module, batch) for _, module in recorder.stages]
    found: list[float | None] = []
    for result in results:
        ratio = Ratio()
        ratio.add(results[0], result)
        found.append(ratio.db)
    return found


def _first_output(module: fx.GraphModule, batch: Any) -> torch.Tensor:
    inputs = arrange(module, batch, "data input 0")
    enabled = [m for m in module.modules() if getattr(m, "enabled", False) is True]
    # To look is not to calibrate.
    for observer in enabled:
        observer.enabled = False  # type: ignore[assignment]
    try:
        with torch.no_grad():
            return flat(fx.Interpreter(module).run(*inputs))[0]
    finally:
        for observer in enabled:
            observer.enabled = True  # type: ignore[assignment]


def _made_by(pool: list[Node], stages: tuple[Stage, ...]) -> dict[str, str]:
    found: dict[str, str] = {}
    for stage in stages:
        for place in stage.nodes:
            found.setdefault(pool[place].id, stage.name)
    return found


def _measured(found: Comparison) -> dict[str, Any]:
    layers = {layer.name: asdict(layer) for layer in found.layers}
    totals = {"output_db": found.output_db, "agreement": found.agreement, "samples": found.samples}
    return {"measured": layers, **totals}
