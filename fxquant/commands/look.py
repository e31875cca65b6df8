"""Looking: report, passes, targets, version."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any

import typer

from fxquant.commands import graphs, scripts
from fxquant.commands.graphs import Wish
from fxquant.commands.output import Json, emit, show, table
from fxquant.commands.road import BatchSize, Calibrate, Inputs, RecipeChoice
from fxquant.errors import CommandError


def report(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="script.py:attribute, a .fxgraph or .fxq file.")],
    calibrate: Calibrate = None,
    inputs: Inputs = None,
    recipe: RecipeChoice = None,
    data: Annotated[str | None, typer.Option(help="Measure errors on it: .npy, .npz or script.py:attribute.")] = None,
    against: Annotated[str | None, typer.Option(help="The float model of a graph file: script.py:attribute.")] = None,
    why: Annotated[str | None, typer.Option(help="Only why this value has its range, or is float.")] = None,
    batch_size: BatchSize = 32,
    as_json: Json = False,
) -> None:
    """Say of every operation what it became and why, and what it costs; with --data, how exact it is."""
    if model.endswith(".fxq"):
        _compiled(model, as_json)
        return
    from fxquant import report as make
    from fxquant.tools.report import why as reason

    float_graph = graphs.traced(Wish(model, calibrate, inputs)) if scripts.is_script(model) else None
    quantized = graphs.quantized(Wish(model, calibrate, inputs, recipe, batch_size=batch_size), float_graph)
    if why is not None:
        found = reason(quantized, why)
        emit({"why": found}) if as_json else print(found)
        return
    if float_graph is None and against is not None:
        float_graph = graphs.traced(Wish(against, data, inputs))
    if data is not None and float_graph is None:
        raise CommandError(f"{model} holds no float model to measure against: name one with --against")
    samples = None if data is None else scripts.calibration(data, batch_size)
    result = make(quantized) if samples is None else make(quantized, float_graph, samples)
    emit(result.to_json()) if as_json else show(result)


def passes(as_json: Json = False) -> None:
    """List the passes in the order of the road, then those for accuracy: stages they need and give, and options."""
    from fxquant.passes import ALL, PRUNING, RECOVERY, TRAINING

    rows = [
        {
            "name": p.__name__,
            "needs": str(p.needs),
            "gives": str(p.gives),
            "summary": p.summary(),
            "options": p.options(),
        }
        for p in (*ALL, *PRUNING, *TRAINING, *RECOVERY)
    ]
    if as_json:
        emit(rows)
        return
    lines = [
        (p.__name__, str(p.needs), str(p.gives), p.summary(), ", ".join(p.options()))
        for p in (*ALL, *PRUNING, *TRAINING, *RECOVERY)
    ]
    show(table("passes", ("pass", "needs", "gives", "what it does", "options"), lines))


def targets(as_json: Json = False) -> None:
    """List the targets that 'compile' knows, what is made for each, and which of them run on this machine."""
    from fxquant.errors import TargetError
    from fxquant.runtime.host import host_machine, missing_features
    from fxquant.targets import TARGETS, native

    try:
        best = native().name
    except TargetError:
        best = ""
    rows: list[dict[str, Any]] = []
    for found in TARGETS.values():
        missing = list(missing_features(found.cpu_features)) if found.machine == host_machine() else [found.machine]
        rows.append({**found.to_json(), "runs_here": not missing, "missing": missing, "native": found.name == best})
    if as_json:
        emit(rows)
        return
    lines = [(r["name"], r["machine"], _MADE[r["form"]], _runs(r), r["description"]) for r in rows]
    show(table("targets", ("target", "machine", "gives", "runs here", "what it is"), lines))


_MADE = {"hosted": ".fxq file", "static": "C header and .a", "shared": "C header and .so", "sources": "C sources"}


def _runs(row: dict[str, Any]) -> str:
    if row["native"]:
        return "yes, native"
    return "yes" if row["runs_here"] else f"no: {', '.join(row['missing'])}"


def version(as_json: Json = False) -> None:
    """Print the versions of fxquant and of what it stands on."""
    from importlib.metadata import PackageNotFoundError
    from importlib.metadata import version as installed

    def found(name: str) -> str:
        try:
            return installed(name)
        except PackageNotFoundError:
            return "not installed"

    names = ("fxquant", "torch", "apache-tvm", "apache-tvm-ffi", "numpy")
    versions = {name: found(name) for name in names}
    if as_json:
        emit(versions)
    else:
        print("\n".join(f"{name} {number}" for name, number in versions.items()))


def _compiled(path: str, as_json: bool) -> None:
    from fxquant.runtime import storage

    if not Path(path).is_file():
        raise CommandError(f"there is no file {path}")
    # Also what other machines are to run can be looked at.
    parts = storage.read_all(path)
    a = next(filter(storage.runs_here, parts), parts[0])
    facts = {
        "name": a.name,
        "target": a.target.get("name"),
        "machine": a.machine,
        "cpu_features": list(a.cpu_features),
        "code_for": [" ".join([str(part.target.get("name")), *part.cpu_features]) for part in parts],
        "versions": dict(a.versions),
        "inputs": [port.describe(a.batched) for port in a.inputs],
        "outputs": [port.describe(a.batched) for port in a.outputs],
        "code_bytes": len(a.code),
        "weight_bytes": len(a.weight_view),
        "arena_bytes": a.arena_bytes,
        "scratch_bytes": a.scratch_bytes,
    }
    if as_json:
        emit({**facts, **a.report})
        return
    try:
        layers = [
            (*(str(x[k]) for k in _OWN_COLUMNS), ", ".join(f"{k}={v}" for k, v in x.items() if k not in _OWN_COLUMNS))
            for x in a.report.get("layers", ())
        ]
    except (KeyError, TypeError, AttributeError) as error:
        raise CommandError(f"the report in {path} garbles its layers ({error!r}): compile it again") from error
    show(table("layers", ("layer", "kernel", "tasks", "facts"), layers))
    show(table(path, ("what", ""), [(name, str(value)) for name, value in facts.items()]))


_OWN_COLUMNS = ("name", "kernel", "tasks", "computes")
