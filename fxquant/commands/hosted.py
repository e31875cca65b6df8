"""Compiling from the shell for machines with fxquant's runtime: one .fxq file."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from time import perf_counter
from typing import TYPE_CHECKING, Any

from fxquant.commands import graphs
from fxquant.commands.graphs import Wish
from fxquant.commands.output import emit, plain, show, table, written
from fxquant.errors import CommandError
from fxquant.progress import working

if TYPE_CHECKING:
    from fxquant.runtime.artifact import Artifact
    from fxquant.target import Target

# How long a search may take that was given no minutes.
USUAL_MINUTES = 3.0


@dataclass(frozen=True)
class Hosted:
    """What is asked for: see `fxquant.compile`; `minutes` is 0 for no search."""

    target: Target
    out: Path
    minutes: float
    tiles: Path | None
    key: bytes | None = None


def secret(path: Path | None) -> bytes | None:
    """The key in a file, all of its bytes; CommandError if it cannot be read, WrongKeyError if it is too short."""
    from fxquant.runtime.signature import checked_key

    try:
        return None if path is None else checked_key(path.read_bytes())
    except OSError as error:
        raise CommandError(f"cannot read the key in {path}: {error.strerror or error}") from error


def compiled(wish: Wish, wanted: Hosted, as_json: bool) -> None:
    """Quantize if need be, compile, compare with float, and tell what it takes."""
    output = written(wanted.out)
    graph = graphs.quantized(wish)
    from fxquant.api import compile_artifact
    from fxquant.runtime import storage
    from fxquant.tools.speed import measure_speed

    start = perf_counter()
    # The search has a bar of its own.
    with working(f"compiling for {wanted.target.name}", show=not wanted.minutes):
        artifact = compile_artifact(graph, wanted.target, output.stem, tune=wanted.minutes, tiles=wanted.tiles)
    storage.write(artifact, output, key=wanted.key)
    facts = {"output": str(output), "target": wanted.target.name, "seconds": round(perf_counter() - start, 2)}
    facts |= {"bytes": output.stat().st_size, **_sizes(artifact)}
    with working("comparing with float"):
        speed = measure_speed(graph, artifact, wanted.target)
    if as_json:
        emit({**facts, "speed": None if speed is None else speed.to_json()})
        return
    told = "not measured: this CPU does not run it" if speed is None else str(speed)
    rows = [(name, plain(value)) for name, value in facts.items()]
    show(table(f"{output}", ("what", ""), [*rows, ("speed", told)]))


def _sizes(artifact: Artifact) -> dict[str, Any]:
    """What a compiled model takes and gives, and how large it is."""
    return {
        "code_bytes": len(artifact.code),
        "weight_bytes": len(artifact.weight_view),
        "arena_bytes": artifact.arena_bytes,
        "inputs": [port.describe(artifact.batched) for port in artifact.inputs],
        "outputs": [port.describe(artifact.batched) for port in artifact.outputs],
    }
