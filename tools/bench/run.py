"""`fxquant bench`: networks against peers, in one run."""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from statistics import geometric_mean
from typing import TYPE_CHECKING, Any

from fxquant.atomic import write_file
from fxquant.errors import FxquantError
from fxquant.tools.bench.machine import describe_machine
from fxquant.tools.bench.networks import Network, network
from fxquant.tools.bench.peers import chosen

if TYPE_CHECKING:
    from rich.console import Console

DEFAULT_NETWORKS = ("resnet18", "resnet50", "mobilenet_v2")


def run_bench(
    networks: Sequence[str] = DEFAULT_NETWORKS,
    peers: Sequence[str] = (),
    threads: Sequence[int] = (1, 2),
    rounds: int = 30,
    as_json: bool = False,
    *,
    cost: bool = False,
    profile: bool = False,
    small: bool = False,
    data: str = "",
    calibration: int | None = None,
    batch: int = 1,
    output: Path | None = None,
    progress: bool = True,
) -> dict[str, Any]:
    """Measure, print as tables or as one JSON object, and return what was printed.

    Each network's tables are printed, and the JSON so far is kept in the file `output`, as soon as it is measured.

    `networks` are names of the zoo or `script.py:model` (with the samples of `data`, see `Network`); `peers` names of
    `PEERS`, none for all. With `cost` what quantizing and compiling takes is measured instead, with `profile` the time
    per layer. `calibration` is the number of calibration samples: by default 16, and 100 with `cost`. All times are for
    `batch` inputs together, from float input to float output. Raises FxquantError for unknown names and numbers that
    make no sense.
    """
    _check(rounds, threads, batch, output)
    wanted = [network(text, data=data, small=small, batch=batch) for text in networks]
    sides = chosen(peers)
    results: dict[str, Any] = {
        "machine": describe_machine(),
        "rounds": rounds,
        "threads": list(threads),
        "networks": [],
        "costs": [],
        "profiles": [],
        "summary": {},
    }
    from fxquant.tools.bench.cost import measure_cost, measure_profiles
    from fxquant.tools.bench.rounds import compare

    def measure(found: Network) -> dict[str, Any]:
        part: dict[str, Any] = {"networks": [], "costs": [], "profiles": []}
        if cost:
            part["costs"].append(measure_cost(found, calibration or 100))
        if profile:
            part["profiles"] += measure_profiles(found, threads, rounds, calibration or 4)
        if not (cost or profile):
            compared = compare(found, sides, threads, rounds, calibration=calibration or 16, progress=progress)
            part["networks"].append(compared)
        return part

    _one_by_one(results, (measure(found) for found in wanted), output, None if as_json else _console())
    return results


def _one_by_one(
    results: dict[str, Any], parts: Iterable[Mapping[str, Any]], output: Path | None, console: Console | None
) -> None:
    """Add to `results` what is measured of each network, keep and show it; without a console all of it at the end."""
    from fxquant.tools.bench.tables import heading, means, measured

    if console:
        console.print(heading(results["machine"]))
    for part in parts:
        for kind, more in part.items():
            results[kind] += more
        results["summary"] = summary(results["networks"])
        if output is not None:
            _keep(results, output)
        if console:
            console.print(*measured(part))
    if console:
        console.print(*means(results["summary"]))
    else:
        print(json.dumps(results, indent=2, allow_nan=False))


def _check(rounds: int, threads: Sequence[int], batch: int, output: Path | None) -> None:
    if rounds < 1 or not threads or min(threads) < 1 or batch < 1:
        raise FxquantError(
            f"{rounds} rounds with {list(threads)} threads and a batch of {batch} cannot be measured; all must be at "
            "least 1"
        )
    if output is not None and not output.resolve().parent.is_dir():
        raise FxquantError(f"there is no folder {output.resolve().parent} for the results; make it first")


def _keep(results: Mapping[str, Any], output: Path) -> None:
    """What was there stays whole whatever happens."""
    try:
        write_file(output, (json.dumps(results, indent=2, allow_nan=False) + "\n").encode())
    except OSError as error:
        raise FxquantError(f"cannot write the results to {output}: {error}") from error


def summary(networks: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """By number of threads: how many times as long as fxquant the best other takes, geometric mean and each network."""
    found: dict[str, dict[str, float]] = {}
    for compared in networks:
        for count, times in compared["times"].items():
            others = [t["ratio"] for name, t in times.items() if not name.startswith("fxquant") and "ratio" in t]
            if others:
                found.setdefault(count, {})[compared["name"]] = min(others)
    return {
        count: {"geometric_mean": geometric_mean(ratios.values()), "networks": ratios}
        for count, ratios in found.items()
    }


def _console() -> Console:
    from rich.console import Console

    console = Console(highlight=False)
    return console if console.is_terminal else Console(highlight=False, width=180)
