"""Seeing: the graph as a page, as a table, and the accuracy debugger."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import typer

from fxquant.commands import graphs, scripts
from fxquant.commands.graphs import Wish
from fxquant.commands.output import Json, emit, show, table, written
from fxquant.commands.road import BatchSize, Calibrate, Inputs, RecipeChoice
from fxquant.errors import CommandError

if TYPE_CHECKING:
    from fxquant.tools.view.document import Document, Run

Subject = Annotated[str, typer.Argument(metavar="MODEL", help="script.py:attribute, a .pt2 or a compiled .fxq file.")]
Data = Annotated[str | None, typer.Option(help="Measure errors on it: .npy, .npz or script.py:attribute.")]
Against = Annotated[str | None, typer.Option(help="The float model of a .pt2 file: script.py:attribute.")]
Targets = Annotated[list[str] | None, typer.Option("--target", help="Show this target's memory; may be repeated.")]
Measure = Annotated[bool, typer.Option("--measure", help="Run on each target (or its emulator) for costs by layer.")]
Other = Annotated[
    list[str] | None, typer.Option("--other", help="Also this recipe (for a script) or .pt2 file; may be repeated.")
]


def view(
    model: Subject,
    output: Annotated[
        Path, typer.Option("--output", "-o", help="The file to write: .html, .json (the same as data) or .dot.")
    ] = Path("model.html"),
    calibrate: Calibrate = None,
    data: Data = None,
    against: Against = None,
    inputs: Inputs = None,
    recipe: RecipeChoice = None,
    other: Other = None,
    target: Targets = None,
    measure: Measure = False,
    batch_size: BatchSize = 32,
    as_json: Json = False,
) -> None:
    """Show a model's graph as one HTML file: after every pass, with ranges, errors, memory, and why."""
    written(output)
    wish = Wish(model, calibrate, inputs, recipe, batch_size=batch_size)
    found = _document(wish, data, against, other or (), target or (), measure)
    from fxquant.tools.view.view import View

    View(found).save(output)
    if as_json:
        emit(found.to_json())
        return
    print(f"{output}: {', '.join(_says(run) for run in found.runs)}")


def inspect(
    model: Subject,
    where: Annotated[str, typer.Option(help="Words and comparisons: 'conv clipped>0.1 low<-4'.")] = "",
    sort: Annotated[str, typer.Option(help="Worst first by local_db, cumulative_db, clipped, bytes, macs, ...")] = "",
    calibrate: Calibrate = None,
    data: Data = None,
    against: Against = None,
    inputs: Inputs = None,
    recipe: RecipeChoice = None,
    batch_size: BatchSize = 32,
    as_json: Json = False,
) -> None:
    """Show a model's graph as a table: values, ranges, errors; the viewer's twin for a terminal."""
    from dataclasses import asdict

    from fxquant.tools.view.inspect import COLUMNS, found, row

    run = _document(Wish(model, calibrate, inputs, recipe, batch_size=batch_size), data, against, (), (), False).runs[0]
    nodes = found(run, where, sort)
    if as_json:
        emit([{**asdict(node), "measured": run.measured.get(node.id)} for node in nodes])
        return
    show(table(f"{len(nodes)} of {len(run.nodes())} nodes", COLUMNS, [row(node, run) for node in nodes]))


def compare(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The float model: script.py:attribute.")],
    quantized: Annotated[str | None, typer.Argument(metavar="[QUANTIZED]", help="Its .pt2 file.")] = None,
    data: Annotated[str, typer.Option(help="What to compare on: .npy, .npz or script.py:attribute.")] = "",
    calibrate: Calibrate = None,
    inputs: Inputs = None,
    recipe: RecipeChoice = None,
    bisect: Annotated[
        bool, typer.Option("--bisect", help="Search for the fewest layers to leave in float (needs --calibrate).")
    ] = False,
    goal: Annotated[
        float | None, typer.Option(help="What --bisect must reach: agreement (0.99), or dB without classes (30).")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the viewer's .html.")] = None,
    batch_size: BatchSize = 32,
    as_json: Json = False,
) -> None:
    """Find where accuracy goes: every layer's own and accumulated error over data, worst first."""
    from fxquant import compare as measured
    from fxquant import recover, view

    if output is not None:
        written(output)
    if not data:
        raise CommandError("name the data to compare on: --data images.npz, or --data script.py:loader")
    if calibrate is None and (quantized is None or bisect):
        wanted = (
            "--bisect quantizes again and again" if bisect else f"{model} is a float model and no .pt2 file is named"
        )
        raise CommandError(f"{wanted}: give --calibrate")
    wish = Wish(model, calibrate, inputs, recipe, batch_size=batch_size)
    # Without example inputs, the first of the data will do.
    graph = graphs.traced(replace(wish, calibrate=calibrate or data))
    integers = graphs.loaded(quantized) if quantized else graphs.quantized(wish, graph)
    samples = scripts.calibration(data, batch_size)
    found = measured(graph, integers, samples)
    if bisect and calibrate is not None:
        calibration = scripts.calibration(calibrate, batch_size)
        chosen = graphs.recipe_of(wish)
        found = replace(found, recovery=recover(graph, calibration, samples, found, recipe=chosen, goal=goal))
    if output is not None:
        view(integers, output, title=model, comparison=found)
    emit(found.to_json()) if as_json else show(found)


def _document(wish: Wish, data: str | None, against: str | None, others: Any, targets: Any, measure: bool) -> Document:
    from fxquant.tools.view.document import Document

    if wish.model.endswith(".fxq"):
        _refuse_for_compiled(data, others, targets)
        return Document(wish.model, (_compiled(wish.model),))
    first = _run(wish, data, against, targets, measure)
    more = []
    for name in others:
        its = replace(wish, model=name, calibrate=None) if name.endswith(".pt2") else replace(wish, recipe=name)
        more.append(_run(its, data, against, targets, measure))
    return Document(wish.model, (first, *more))


def _run(wish: Wish, data: str | None, against: str | None, targets: Any, measure: bool) -> Run:
    """One model by one recipe, from tracing on for a script, else the one graph that the file holds."""
    from fxquant.tools.view.build import run_of
    from fxquant.tools.view.costs import with_measured_costs
    from fxquant.tools.view.recorder import Recorder

    if wish.model.endswith(".pt2"):
        graph = graphs.loaded(wish.model)
        if data is not None and against is None:
            raise CommandError(f"{wish.model} holds no float model to measure against: name one with --against")
        model = None if against is None or data is None else graphs.traced(Wish(against, data, wish.inputs))
        samples = None if data is None else scripts.calibration(data, wish.batch_size)
        run = run_of(graph, label=Path(wish.model).name, model=model, data=samples, targets=targets)
        return with_measured_costs(run, graph, targets) if measure else run
    graph = graphs.traced(wish)
    if wish.calibrate is None:
        # Not quantized: the FLOAT graph alone is worth a look, too.
        return run_of(graph, label=wish.model)
    recorder = Recorder(graph, wish.recipe or wish.model)
    quantized = graphs.quantized(wish, graph, recorder)
    samples = scripts.calibration(data or wish.calibrate, wish.batch_size)
    run = run_of(recorder, data=samples, targets=targets)
    return with_measured_costs(run, quantized, targets) if measure else run


def _compiled(path: str) -> Run:
    from fxquant.runtime import storage
    from fxquant.tools.view.compiled import compiled_run

    if not Path(path).is_file():
        raise CommandError(f"there is no file {path}")
    found = storage.read(path)
    report = {**found.report, "target": found.target.get("name")}
    return compiled_run(report, found.name, found.arena_bytes, len(found.weight_view))


def _refuse_for_compiled(data: str | None, others: Any, targets: Any) -> None:
    if data is not None or others or targets:
        raise CommandError(
            "--data, --other and --target are for a script or a .pt2 file: a compiled model is what it is"
        )


def _says(run: Run) -> str:
    stages: Literal["stages", "stage"] = "stages" if len(run.stages) > 1 else "stage"
    return f"{run.label}: {len(run.nodes())} nodes, {len(run.stages)} {stages}"
