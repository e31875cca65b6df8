"""Performing: the demo and the benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from fxquant.commands.output import Json, emit, show
from fxquant.errors import CommandError


def demo(
    folder: Annotated[Path, typer.Option("--output", "-o", help="Where script and model are left.")] = Path("."),
    as_json: Json = False,
) -> None:
    """Train, quantize, compile and run a small CNN on real images of digits, in seconds, without a download."""
    from fxquant.tools.demo import run_demo

    found = run_demo(folder)
    emit(found.to_json()) if as_json else show(found)


def bench(
    networks: Annotated[
        list[str] | None, typer.Argument(metavar="[NETWORK]...", help="Known networks, or script.py:attribute.")
    ] = None,
    peer: Annotated[list[str] | None, typer.Option(help="Compare with this one only; may be repeated.")] = None,
    threads: Annotated[list[int] | None, typer.Option(min=1, help="Numbers of threads; may be repeated.")] = None,
    rounds: Annotated[int, typer.Option(min=1, help="Turns that everybody takes.")] = 30,
    target: Annotated[
        list[str] | None, typer.Option(help="Count instructions on this standalone target instead; may be repeated.")
    ] = None,
    tune: Annotated[bool, typer.Option("--tune", help="With --target, search the layers' tiles first.")] = False,
    markdown: Annotated[bool, typer.Option("--markdown", help="With --target, the table as Markdown.")] = False,
    cost: Annotated[bool, typer.Option("--cost", help="Measure what quantizing and compiling takes instead.")] = False,
    profile: Annotated[bool, typer.Option("--profile", help="Measure the time per layer instead.")] = False,
    data: Annotated[str, typer.Option(help="Samples for a network from a script.")] = "",
    batch: Annotated[int, typer.Option(min=1, help="Inputs that are given together.")] = 1,
    calibration: Annotated[int | None, typer.Option(min=1, help="Number of calibration samples.")] = None,
    output: Annotated[
        Path | None, typer.Option("-o", "--output", help="Also keep the results there, as JSON, network by network.")
    ] = None,
    as_json: Json = False,
) -> None:
    """Measure networks against PyTorch and other runtimes, interleaved in one run."""
    from fxquant.tools.bench import DEFAULT_NETWORKS, run_bench

    if target:
        if output is not None:
            raise CommandError("--output is for measured times; keep what is counted with --json > FILE")
        _emulated(networks, target, data, calibration or 4, profile, as_json, markdown, tune)
        return
    if tune or markdown:
        raise CommandError("--tune and --markdown are for standalone targets: name one with --target")
    run_bench(
        networks or DEFAULT_NETWORKS,
        peer or (),
        threads or (1, 2),
        rounds,
        as_json,
        cost=cost,
        profile=profile,
        data=data,
        calibration=calibration,
        batch=batch,
        output=output,
    )


def _emulated(
    networks: list[str] | None,
    targets: list[str],
    data: str,
    calibration: int,
    layers: bool,
    as_json: bool,
    as_markdown: bool,
    tune: bool,
) -> None:
    from fxquant.tools.bench.emulated import TINY, count, markdown, tables
    from fxquant.tools.bench.networks import network

    reports = count([network(name, data=data) for name in networks or TINY], targets, calibration, tune=tune)
    if as_json:
        emit(reports)
    elif as_markdown:
        print(markdown(reports))
    else:
        show(*tables(reports, layers))
