"""Count the instructions of standalone code under emulation, as a Markdown table; every run also checks its integers.

    python benchmarks/standalone.py             the networks of MLPerf Tiny on Cortex-M4, M55 and Armv8.2
    python benchmarks/standalone.py --target aarch64-dotprod --network resnet8 --layers

Counts are exact and repeat; nothing is timed.
"""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Annotated

import typer

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

import fxquant
from fxquant import targets
from fxquant.progress import working
from fxquant.targets.standalone.export import Standalone, standalone
from fxquant.tools.emulate import ModelRun, emulate
from tests import zoo

DEFAULT = ["cortex-m4", "cortex-m55", "aarch64-dotprod"]
TINY = ["resnet8", "ds_cnn", "mobilenet_v1", "autoencoder"]
HEAD = ("network", "target", "MACs", "instructions", "per MAC", "flash", "arena", "stack", "equal to Python")


def main(
    target: Annotated[list[str], typer.Option(help="Any standalone target.")] = DEFAULT,
    network: Annotated[list[str], typer.Option(help="Networks of tests/zoo.")] = TINY,
    layers: Annotated[bool, typer.Option(help="A row per layer as well.")] = False,
) -> None:
    """Print the table."""
    print(f"| {' | '.join(HEAD)} |\n|{'---|' * len(HEAD)}")
    for name in network:
        x = zoo.inputs(name, 4)
        graph = fxquant.quantize(fxquant.trace(zoo.build(name), x), [x], progress=False)
        plain = fxquant.integer_ports(graph)
        for wanted in map(targets.get, target):
            with working(f"{name} on {wanted.name}"):
                made = standalone(plain, wanted, "net", marked=True)
                run = emulate(made.files, "net", made.report, wanted)
            print(_row(name, made, run))
            for line in _layers(made, run) if layers else ():
                print(line)


def _row(name: str, made: Standalone, run: ModelRun) -> str:
    report = made.report
    per_mac = None if run.instructions is None else run.instructions / report["macs"]
    memory = (report["flash_bytes"], report["arena_bytes"], run.stack_bytes)
    cells = [name, made.target.name, *map(_number, (report["macs"], run.instructions)), _number(per_mac, 2)]
    return f"| {' | '.join([*cells, *map(_number, memory), 'yes' if run.wrong == 0 else 'NO'])} |"


def _layers(made: Standalone, run: ModelRun) -> list[str]:
    rows = zip(made.report["layers"], run.layers or (), strict=False)
    return [
        f"| {layer['name']} | {layer['kernel']} | {layer['macs']:,} | {count:,} | "
        f"{count / layer['macs'] if layer['macs'] else 0:.2f} | | | | |"
        for layer, count in rows
    ]


def _number(value: float | None, digits: int = 0) -> str:
    return "–" if value is None else f"{value:,.{digits}f}"


if __name__ == "__main__":
    typer.run(main)
