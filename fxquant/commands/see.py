"""Seeing: the graph as a page, as a table, and the accuracy debugger."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

import typer

from fxquant.commands import graphs, scripts
from fxquant.commands.graphs import Wish
from fxquant.commands.output import Json, emit, show, table, written
from fxquant.commands.road import BatchSize, Calibrate, EffortChoice, Inputs, RecipeChoice
from fxquant.errors import CommandError

if TYPE_CHECKING:
    from torch.fx import GraphModule

    from fxquant.tools.view.document import Document, Run

Subject = Annotated[str, typer.Argument(metavar="MODEL", help="script.py:attribute, a .fxgraph or .fxq file.")]
Data = Annotated[str | None, typer.Option(help="Measure errors on it: .npy, .npz or script.py:attribute.")]
Against = Annotated[str | None, typer.Option(help="The float model of a .fxgraph file: script.py:attribute.")]
Targets = Annotated[list[str] | None, typer.Option("--target", help="Show this target's memory; may be repeated.")]
Measure = Annotated[bool, typer.Option("--measure", help="Run on each target (or its emulator) for costs by layer.")]
Other = Annotated[
    list[str] | None, typer.Option("--other", help="Also this recipe (for a script) or .fxgraph file; may be repeated.")
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
    found = _document(wish, _Look(data, against, tuple(other or ()), tuple(target or ()), measure))
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

    from fxquant.tools.view.inspect import COLUMNS, found, hint, row

    run = _document(Wish(model, calibrate, inputs, recipe, batch_size=batch_size), _Look(data, against)).runs[0]
    nodes = found(run, where, sort)
    if as_json:
        emit([{**asdict(node), "measured": run.measured.get(node.id)} for node in nodes])
        return
    if not nodes and (near := hint(run, where)):
        print(near, file=sys.stderr)
    show(table(f"{len(nodes)} of {len(run.nodes())} nodes", COLUMNS, [row(node, run) for node in nodes]))


def compare(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="The float model: script.py:attribute.")],
    quantized: Annotated[str | None, typer.Argument(metavar="[QUANTIZED]", help="Its .fxgraph file.")] = None,
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
    classes: Annotated[
        int | None, typer.Option(help="The axis of class scores in the first output, where it is no table of rows.")
    ] = None,
    output: Annotated[Path | None, typer.Option("--output", "-o", help="Also write the viewer's .html.")] = None,
    effort: EffortChoice = "fast",
    batch_size: BatchSize = 32,
    as_json: Json = False,
) -> None:
    """Find where accuracy goes: every layer's own and accumulated error over data, worst first."""
    from fxquant import compare as measured
    from fxquant import recover, view

    if output is not None:
        written(output)
    if goal is not None and not bisect:
        raise CommandError("--goal is what --bisect must reach: give --bisect, too")
    if not data:
        raise CommandError("name the data to compare on: --data images.npz, or --data script.py:loader")
    if calibrate is None and (quantized is None or bisect):
        wanted = (
            "--bisect quantizes again and again" if bisect else f"{model} is a float model and no graph file is named"
        )
        raise CommandError(f"{wanted}: give --calibrate")
    wish = Wish(model, calibrate, inputs, recipe, batch_size=batch_size, effort=effort)
    # Without example inputs, the first of the data will do.
    graph = graphs.traced(replace(wish, calibrate=calibrate or data))
    integers = graphs.loaded(quantized) if quantized else graphs.quantized(wish, graph)
    samples = scripts.calibration(data, batch_size)
    found = measured(graph, integers, samples, agreement=classes)
    if bisect and calibrate is not None:
        calibration = scripts.calibration(calibrate, batch_size)
        search = recover(
            graph,
            calibration,
            samples,
            found,
            recipe=graphs.recipe_of(wish),
            agreement=classes,
            goal=goal,
            effort=effort,
        )
        found = replace(found, recovery=search)
    if output is not None:
        view(integers, output, title=model, comparison=found)
    emit(found.to_json()) if as_json else show(found)


@dataclass(frozen=True)
class _Look:
    """What is wanted besides the graph."""

    data: str | None = None
    against: str | None = None
    others: Sequence[str] = ()
    targets: Sequence[str] = ()
    measure: bool = False


def _document(wish: Wish, look: _Look) -> Document:
    from fxquant.tools.view.document import Document

    if wish.model.endswith(".fxq"):
        return Document(wish.model, (_compiled(wish, look),))
    runs = [_run(wish, look)]
    for name in look.others:
        if graphs.is_stored(name):
            runs.append(_run(replace(wish, model=name, calibrate=None, recipe=None), look))
        else:
            runs.append(_run(replace(wish, recipe=name), look))
    return Document(wish.model, tuple(runs))


def _run(wish: Wish, look: _Look) -> Run:
    """One model by one recipe: the whole way of a script's model, else the one graph that the file holds."""
    from fxquant.tools.view.costs import with_measured_costs

    if graphs.is_stored(wish.model):
        run, graph = _stored(wish, look)
    elif wish.calibrate is not None:
        run, graph = _recorded(wish, look)
    else:
        return _traced(wish, look)
    return with_measured_costs(run, graph, look.targets) if look.measure else run


def _stored(wish: Wish, look: _Look) -> tuple[Run, GraphModule]:
    from fxquant.tools.view.build import run_of

    # Says that --calibrate and --recipe are for a script's model.
    graph = graphs.quantized(wish)
    if look.data is not None and look.against is None:
        raise CommandError(f"{wish.model} holds no float model to measure against: name one with --against")
    if look.against is not None and look.data is None:
        raise CommandError(f"--against {look.against} is what errors on data are measured against: give --data, too")
    model = samples = None
    if look.data is not None:
        model = graphs.traced(Wish(str(look.against), look.data, wish.inputs))
        samples = scripts.calibration(look.data, wish.batch_size)
    return run_of(graph, label=Path(wish.model).name, model=model, data=samples, targets=look.targets), graph


def _recorded(wish: Wish, look: _Look) -> tuple[Run, GraphModule]:
    from fxquant.tools.view.build import run_of
    from fxquant.tools.view.recorder import Recorder

    graph = graphs.traced(wish)
    recorder = Recorder(graph, wish.recipe or wish.model)
    quantized = graphs.quantized(wish, graph, recorder)
    samples = scripts.calibration(look.data or str(wish.calibrate), wish.batch_size)
    return run_of(recorder, data=samples, targets=look.targets), quantized


def _traced(wish: Wish, look: _Look) -> Run:
    """Not quantized: the FLOAT graph alone is worth a look, too."""
    from fxquant.tools.view.build import run_of

    if wish.recipe or look != _Look():
        raise CommandError(f"{wish.model} is a float model: give --calibrate, and it is quantized and measured")
    return run_of(graphs.traced(wish), label=wish.model)


def _compiled(wish: Wish, look: _Look) -> Run:
    from fxquant.runtime import storage
    from fxquant.tools.view.compiled import compiled_run

    if look != _Look() or wish.calibrate or wish.recipe or wish.inputs:
        raise CommandError(
            f"{wish.model} is compiled, and is what it is: other options are for a script or a .fxgraph file"
        )
    if not Path(wish.model).is_file():
        raise CommandError(f"there is no file {wish.model}")
    return compiled_run(storage.read(wish.model))


def _says(run: Run) -> str:
    stages: Literal["stages", "stage"] = "stages" if len(run.stages) > 1 else "stage"
    return f"{run.label}: {len(run.nodes())} nodes, {len(run.stages)} {stages}"
