"""The road from the shell: trace, quantize, compile, run."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxquant.commands import graphs, scripts
from fxquant.commands.graphs import Wish
from fxquant.commands.output import Json, emit, show, table, written
from fxquant.errors import CommandError
from fxquant.progress import working

if TYPE_CHECKING:
    from fxquant.runtime.model import CompiledModel

Model = Annotated[str, typer.Argument(metavar="MODEL", help="script.py:attribute: an nn.Module or what returns one.")]
AnyModel = Annotated[str, typer.Argument(metavar="MODEL", help="script.py:attribute, or a quantized .pt2 file.")]
Inputs = Annotated[str | None, typer.Option(help="Example inputs: script.py:attribute, .npy or .npz.")]
Calibrate = Annotated[str | None, typer.Option(help="Calibration data: .npy, .npz or script.py:loader.")]
RecipeFile = Annotated[Path | None, typer.Option("--recipe", help="Recipe as .json or .toml.")]
Strict = Annotated[bool, typer.Option("--strict", help="Refuse a model of which anything would stay in float.")]
BatchSize = Annotated[int, typer.Option(min=1, help="Samples per calibration step, for data files.")]
Checkpoint = Annotated[Path | None, typer.Option(help="Calibration writes its progress here, and resumes from it.")]


def complete_target(incomplete: str) -> list[str]:
    """Names of targets, for the shell."""
    from fxquant.targets import TARGETS

    return [name for name in ("native", *TARGETS) if name.startswith(incomplete)]


TargetName = Annotated[str, typer.Option("--target", autocompletion=complete_target, help="See 'fxquant targets'.")]


def trace(model: Model, inputs: Inputs = None, as_json: Json = False) -> None:
    """Show the FLOAT graph of a model, with shapes and the model's own source lines."""
    from fxquant.graph import text
    from fxquant.source import source_of, target_name

    graph = graphs.traced(Wish(model, inputs=inputs))
    if as_json:
        nodes = [{"name": n.name, "op": target_name(n), "source": str(source_of(n))} for n in graph.graph.nodes]
        emit({"stage": "FLOAT", "batch": graph.meta["fxq.batch"], "nodes": nodes, "text": text(graph)})
        return
    print(text(graph))
    print(f"# batch: {graph.meta['fxq.batch']}")


def quantize(
    model: Model,
    calibrate: Calibrate = None,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .pt2 file to write.")] = Path("model.pt2"),
    inputs: Inputs = None,
    recipe: RecipeFile = None,
    strict: Strict = False,
    batch_size: BatchSize = 32,
    checkpoint: Checkpoint = None,
    as_json: Json = False,
) -> None:
    """Quantize a model to an INTEGER graph, a .pt2 file that PyTorch runs bit-exactly."""
    from fxquant import report, save_graph

    written(output)
    found = graphs.quantized(Wish(model, calibrate, inputs, recipe, strict, batch_size, checkpoint))
    save_graph(found, output)
    summary = report(found)
    if as_json:
        emit({"output": str(output), "report": summary.to_json()})
        return
    print(f"{output}: {summary.summary()}")
    for item in summary.floats:
        print(f"  float: {item.name} ({item.operation}): {item.reason}")


def compile_(
    model: AnyModel,
    output: Annotated[Path, typer.Option("--output", "-o", help="The .fxq file to write.")] = Path("model.fxq"),
    target: TargetName = "native",
    calibrate: Calibrate = None,
    inputs: Inputs = None,
    recipe: RecipeFile = None,
    strict: Strict = False,
    batch_size: BatchSize = 32,
    as_json: Json = False,
) -> None:
    """Compile a model to machine code: one .fxq file that runs without PyTorch and TVM."""
    from fxquant import targets

    written(output)
    wanted = targets.get(target)
    graph = graphs.quantized(Wish(model, calibrate, inputs, recipe, strict, batch_size))
    from fxquant.runtime import storage
    from fxquant.targets.compiler import compile_graph

    start = perf_counter()
    with working(f"compiling for {wanted.name}"):
        artifact = compile_graph(graph, wanted, output.stem)
    storage.write(artifact, output)
    facts = {
        "output": str(output),
        "target": wanted.name,
        "seconds": round(perf_counter() - start, 2),
        "bytes": output.stat().st_size,
        "code_bytes": len(artifact.code),
        "weight_bytes": len(artifact.weight_view),
        "arena_bytes": artifact.arena_bytes,
        "inputs": [port.describe(artifact.batched) for port in artifact.inputs],
        "outputs": [port.describe(artifact.batched) for port in artifact.outputs],
    }
    if as_json:
        emit(facts)
    else:
        show(table(f"{output}", ("what", ""), [(name, _text(value)) for name, value in facts.items()]))


def run(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A compiled .fxq, or a quantized .pt2 (in PyTorch).")],
    inputs: Annotated[str, typer.Option(help="Inputs: .npy or .npz, samples first, in the order or by the names "
                                        "of the model's inputs.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The .npz (or .npy) file to write.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; all cores if not given.")] = None,
    as_json: Json = False,
) -> None:  # fmt: skip
    """Run a model on arrays. A compiled model needs neither PyTorch nor TVM."""
    import numpy as np

    if output is not None:
        written(output)
    given = scripts.arrays(inputs)
    results = _run_graph(model, given) if model.endswith(".pt2") else _run_compiled(model, given, threads)
    if output is not None and output.suffix == ".npy":
        if len(results) > 1:
            raise CommandError(f"the model has {len(results)} outputs ({', '.join(results)}): write an .npz file")
        np.save(output, next(iter(results.values())))
    elif output is not None:
        with output.open("wb") as file:
            np.savez(file, **results)
    rows = [
        {"name": n, "dtype": str(a.dtype), "shape": list(a.shape), "min": float(a.min()), "max": float(a.max())}
        for n, a in results.items()
    ]
    if as_json:
        emit({"output": None if output is None else str(output), "outputs": rows})
    else:
        show(table("outputs", ("name", "dtype", "shape", "min", "max"), [[_text(v) for v in r.values()] for r in rows]))


def _run_compiled(path: str, given: scripts.Arrays, threads: int | None) -> dict[str, Any]:
    from fxquant import load

    if not Path(path).is_file():
        raise CommandError(f"there is no file {path}")
    net: CompiledModel = load(path, threads)
    with net:
        got = net(*_arranged(given, [port.name for port in net.inputs]))
        return _named([port.name for port in net.outputs], got)


def _run_graph(path: str, given: scripts.Arrays) -> dict[str, Any]:
    import torch

    from fxquant.calibration import arrange
    from fxquant.graph import outputs, placeholders

    graph = graphs.loaded(path)
    values = _arranged(given, [str(node.target) for node in placeholders(graph.graph)])
    with torch.no_grad():
        got = graph(*arrange(graph, [torch.from_numpy(v) for v in values], "the input"))
    got = tuple(v.numpy() for v in got) if isinstance(got, (tuple, list)) else got.numpy()
    return _named([node.name for node in outputs(graph.graph)], got)


def _arranged(given: scripts.Arrays, names: Sequence[str]) -> list[Any]:
    """Arrays by name where the names are the model's, else in order."""
    if set(given) == set(names):
        return [given[name] for name in names]
    if len(names) == 1 and len(given) == 1:
        return list(given.values())
    raise CommandError(f"the data file holds {', '.join(given) or 'nothing'}; the model takes {', '.join(names)}")


def _named(names: Sequence[str], got: Any) -> dict[str, Any]:
    several = got if isinstance(got, tuple) else (got,)
    return dict(zip(names, several, strict=True))


def _text(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)
