"""Running a model on arrays, in a process that imports neither PyTorch nor TVM for a compiled one."""

from __future__ import annotations

from collections.abc import Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from fxquant.array_files import read_arrays
from fxquant.atomic import write_file
from fxquant.commands import graphs, scripts
from fxquant.commands.hosted import secret
from fxquant.commands.output import Json, emit, plain, show, table, written
from fxquant.errors import CommandError

if TYPE_CHECKING:
    from fxquant.runtime.model import CompiledModel


def run(
    model: Annotated[str, typer.Argument(metavar="MODEL", help="A compiled .fxq, or a .fxgraph (in PyTorch).")],
    inputs: Annotated[str, typer.Option(help="Inputs by name, samples first: .npz; or .npy for a single one.")],
    output: Annotated[Path | None, typer.Option("--output", "-o", help="The .npz (or .npy) file to write.")] = None,
    threads: Annotated[int | None, typer.Option(min=1, help="Threads; all cores if not given.")] = None,
    trusted: Annotated[
        Path | None, typer.Option(help="Refuse an .fxq that is not signed with the key in this file.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Run a model on arrays. A compiled model needs neither PyTorch nor TVM."""
    if output is not None:
        written(output)
    if trusted is not None and graphs.is_stored(model):
        raise CommandError(f"--trusted is for compiled models: nothing signs {model}")
    given = read_arrays(inputs)
    results = _run_graph(model, given) if graphs.is_stored(model) else _run_compiled(model, given, threads, trusted)
    if output is not None:
        _write(results, output)
    rows = [{"name": n, "dtype": str(a.dtype), "shape": list(a.shape), **_extremes(a)} for n, a in results.items()]
    if as_json:
        emit({"output": None if output is None else str(output), "outputs": rows})
    else:
        show(table("outputs", ("name", "dtype", "shape", "min", "max"), [[plain(v) for v in r.values()] for r in rows]))


def _extremes(array: Any) -> dict[str, float | None]:
    return {"min": float(array.min()), "max": float(array.max())} if array.size else {"min": None, "max": None}


def _write(results: dict[str, Any], output: Path) -> None:
    import numpy as np

    content = BytesIO()
    if output.suffix != ".npy":
        np.savez(content, **results)
    elif len(results) > 1:
        raise CommandError(f"the model has {len(results)} outputs ({', '.join(results)}): write an .npz file")
    else:
        np.save(content, next(iter(results.values())))
    try:
        write_file(output, content.getbuffer())
    except OSError as error:
        raise CommandError(f"cannot write {output}: {error.strerror or error}") from error


def _run_compiled(path: str, given: scripts.Arrays, threads: int | None, trusted: Path | None) -> dict[str, Any]:
    from fxquant import load

    if not Path(path).is_file():
        raise CommandError(f"there is no file {path}")
    net: CompiledModel = load(path, threads, trusted=secret(trusted))
    with net:
        got = net(*_arranged(given, [port.name for port in net.inputs]))
        return _named([port.name for port in net.outputs], got)


def _run_graph(path: str, given: scripts.Arrays) -> dict[str, Any]:
    import torch

    from fxquant.calibration import arrange
    from fxquant.graph import placeholders
    from fxquant.names import output_names

    graph = graphs.loaded(path)
    values = _arranged(given, [str(node.target) for node in placeholders(graph.graph)])
    with torch.no_grad():
        got = graph(*arrange(graph, [torch.from_numpy(v) for v in values], "the input"))
    got = tuple(v.numpy() for v in got) if isinstance(got, (tuple, list)) else got.numpy()
    return _named(output_names(graph), got)


def _arranged(given: scripts.Arrays, names: Sequence[str]) -> list[Any]:
    """Arrays by name where the names are the model's, else in order."""
    if set(given) == set(names):
        return [given[name] for name in names]
    if len(names) == 1 and len(given) == 1:
        return list(given.values())
    held = "one array without a name" if list(given) == [""] else ", ".join(given) or "nothing"
    raise CommandError(f"the data file holds {held}; the model takes {', '.join(names)}")


def _named(names: Sequence[str], got: Any) -> dict[str, Any]:
    several = got if isinstance(got, tuple) else (got,)
    return dict(zip(names, several, strict=True))
