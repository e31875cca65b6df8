"""The road from the shell: trace, quantize, compile."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

import typer

from fxquant.commands import graphs
from fxquant.commands.graphs import Wish
from fxquant.commands.hosted import USUAL_MINUTES, Hosted, compiled, secret
from fxquant.commands.output import Json, emit, written
from fxquant.commands.standalone import Standalone, exported
from fxquant.errors import CommandError

Model = Annotated[str, typer.Argument(metavar="MODEL", help="script.py:attribute: an nn.Module or what returns one.")]
AnyModel = Annotated[str, typer.Argument(metavar="MODEL", help="script.py:attribute, or a quantized .fxgraph file.")]
Inputs = Annotated[str | None, typer.Option(help="Example inputs: script.py:attribute, .npy or .npz.")]
Calibrate = Annotated[str | None, typer.Option(help="Calibration data: .npy, .npz or script.py:loader.")]
RecipeChoice = Annotated[
    str | None, typer.Option("--recipe", help="A .json or .toml file, a recipe's name, or native: what suits this CPU.")
]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse a model of which anything would stay in float.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples per calibration step, for data files.")]
EffortChoice = Annotated[
    Literal["fast", "balanced", "max"],
    typer.Option("--effort", help="What is done for accuracy; balanced takes longer, max longest."),
]
Checkpoint = Annotated[Path | None, typer.Option(help="Calibration writes its progress here, and resumes from it.")]


def complete_target(incomplete: str) -> list[str]:
    """Names of targets, for the shell."""
    from fxquant.targets import TARGETS

    return [name for name in ("native", *TARGETS) if name.startswith(incomplete)]


TargetName = Annotated[str, typer.Option("--target", autocompletion=complete_target, help="See 'fxquant targets'.")]


def trace(model: Model, inputs: Inputs = None, as_json: Json = False) -> None:
    """Show the FLOAT graph of a model, with shapes and the model's own source lines."""
    from fxquant.graph import text
    from fxquant.source import name_of, source_of, target_name

    graph = graphs.traced(Wish(model, inputs=inputs))
    if as_json:
        nodes = [
            {"name": name_of(n), "id": n.name, "op": target_name(n), "source": str(source_of(n))}
            for n in graph.graph.nodes
        ]
        emit({"stage": "FLOAT", "batch": graph.meta["fxq.batch"], "nodes": nodes, "text": text(graph)})
        return
    print(text(graph, named=True))
    print(f"# batch: {graph.meta['fxq.batch']}")


def quantize(
    model: Model,
    calibrate: Calibrate = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .fxgraph file to write.")] = Path("model.fxgraph"),
    inputs: Inputs = None,
    recipe: RecipeChoice = None,
    strict: Strict = False,
    batch_size: BatchSize = 32,
    checkpoint: Checkpoint = None,
    effort: EffortChoice = "fast",
    as_json: Json = False,
) -> None:
    """Quantize a model to an INTEGER graph, a .fxgraph file that PyTorch runs bit-exactly."""
    from fxquant import report, save_graph

    if not graphs.is_stored(str(output)):
        raise CommandError(f"{output} does not end in {graphs.SUFFIX}, by which other commands know a graph's file")
    written(output)
    found = graphs.quantized(Wish(model, calibrate, inputs, recipe, strict, batch_size, checkpoint, effort))
    save_graph(found, output)
    summary = report(found)
    if as_json:
        emit({"output": str(output), "report": summary.to_json()})
        return
    print(f"{output}: {summary.summary()}")
    for gain in summary.gains:
        print(f"  {gain}")
    for item in summary.floats:
        print(f"  float: {item.name} ({item.operation}): {item.reason}")


def compile_(
    model: AnyModel,
    output: Annotated[
        Path | None,
        typer.Option("--output", "-o", help="The .fxq file, or for standalone targets the folder, to write."),
    ] = None,
    target: TargetName = "native",
    name: Annotated[str, typer.Option(help="Begins the C names of standalone code.")] = "model",
    emit_: Annotated[
        Literal["library", "c"], typer.Option("--emit", help="A library, or C sources only; for standalone targets.")
    ] = "library",
    fits: Annotated[str | None, typer.Option(help="Refuse more memory than this: flash=256k,ram=64k.")] = None,
    measure: Annotated[
        bool, typer.Option("--measure", help="Run it under emulation: instructions by layer, stack; standalone only.")
    ] = False,
    tune: Annotated[
        bool, typer.Option("--tune", help="Search tiles: by time on this CPU, standalone by instructions in emulation.")
    ] = False,
    minutes: Annotated[
        float | None, typer.Option(min=0.01, help="With --tune on this CPU, how long at most; 3 if not given.")
    ] = None,
    tiles: Annotated[
        Path | None, typer.Option(help="Hosted: the file of tiles to read, and with --tune to add to.")
    ] = None,
    key: Annotated[
        Path | None, typer.Option(help="Hosted: sign with the secret in this file, 16 bytes or more.")
    ] = None,
    calibrate: Calibrate = None,
    inputs: Inputs = None,
    recipe: RecipeChoice = None,
    strict: Strict = False,
    batch_size: BatchSize = 32,
    effort: EffortChoice = "fast",
    as_json: Json = False,
) -> None:
    """Compile a model: to one .fxq file that runs without PyTorch and TVM, or to a folder of C (standalone targets)."""
    from fxquant import targets

    wanted = targets.get(target)
    if wanted.form != "hosted":
        wish = Wish(model, calibrate, inputs, recipe, strict, batch_size, effort=effort)
        if minutes is not None or tiles is not None or key is not None:
            raise CommandError(f"--minutes, --tiles and --key are for hosted targets, and {wanted.name} is standalone")
        exported(wish, Standalone(wanted, output or Path(name), name, emit_, fits, measure, tune), as_json)
        return
    if emit_ != "library" or fits or measure:
        raise CommandError(
            f"--emit, --fits and --measure are for standalone targets, and {wanted.name} is hosted: see 'targets'"
        )
    if minutes is not None and not tune:
        raise CommandError("--minutes says how long --tune may take: give both")
    limit = (USUAL_MINUTES if minutes is None else minutes) if tune else 0.0
    wish = Wish(model, calibrate, inputs, recipe, strict, batch_size, effort=effort)
    compiled(wish, Hosted(wanted, output or Path("model.fxq"), limit, tiles, secret(key)), as_json)
