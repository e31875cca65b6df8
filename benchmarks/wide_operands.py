"""What activations of 16 bits cost beside those of 8: instructions, memory and time of the same networks.

python benchmarks/wide_operands.py                     DS-CNN on two microcontrollers, ResNet-18 on this machine
python benchmarks/wide_operands.py --network resnet8 --target cortex-m4 --target aarch64-dotprod

Microcontrollers are emulated, which counts instructions; every integer is compared with Python's, and a wrong one ends
the program with status 1. Times are the fastest of many runs by one thread, of both widths in turn.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path
from typing import Any

import torch
from rich.console import Console
from rich.table import Table

sys.path.insert(0, str(Path(__file__).parent.parent))

import fxquant
from fxquant import targets
from fxquant.recipe import Recipe
from fxquant.scheme import activation
from fxquant.target import Target
from fxquant.targets.standalone.export import standalone
from fxquant.tools.emulate import emulate
from tests import zoo

WIDTHS = (8, 16)
ROUNDS = 15


def main() -> int:
    """Parse the command line and print both tables; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--network", default="ds_cnn", choices=list(zoo.ZOO), help="for emulated targets")
    parser.add_argument("--target", action="append", help="an emulated target, may be repeated; 'native' measures time")
    wanted = parser.parse_args()
    names, wrong = wanted.target or ["cortex-m4", "cortex-m55", "native"], 0
    emulated, table = [targets.get(name) for name in names if name != "native"], Table()
    for title in ("target", "bits", "instructions", "per multiply-accumulate", "arena", "flash"):
        table.add_column(title, justify="left" if title == "target" else "right")
    for target in emulated:
        for bits in WIDTHS:
            cells, differing = _counted(wanted.network, bits, target)
            wrong += differing
            table.add_row(target.name, str(bits), *cells)
    if emulated:
        Console(width=100).print(wanted.network, table)
    if "native" in names:
        narrow, wide = _times("resnet18")
        share = narrow / wide
        print(
            f"resnet18, one thread: {1e3 * narrow:.2f} ms at 8 bits, {1e3 * wide:.2f} at 16: {share:.2f} of the speed"
        )
    return 1 if wrong else 0


def _quantized(name: str, bits: int, recipe: str = "default", *, small: bool = True) -> Any:
    model, x = zoo.build(name, shallow=small), zoo.inputs(name, 4 if small else 1, small=small)
    chosen = Recipe.named(recipe) if bits == WIDTHS[0] else Recipe(activation=activation(bits))
    return fxquant.quantize(fxquant.trace(model, x), [x], recipe=chosen, progress=False)


def _counted(name: str, bits: int, target: Target) -> tuple[list[str], int]:
    """The cells of a row, and how many integers differ from Python's."""
    made = standalone(fxquant.integer_ports(_quantized(name, bits)), target, "net")
    run = emulate(made.files, "net", made.report, target)
    macs = sum(layer.get("macs", 0) for layer in made.report["layers"])
    count = run.instructions or 0
    sizes = [f"{made.report[key]:,}" for key in ("arena_bytes", "flash_bytes")]
    return [f"{count:,}", f"{count / macs:.2f}", *sizes], run.wrong


def _times(name: str) -> tuple[float, float]:
    """Seconds of one sample at 8 and at 16 bits."""
    x = zoo.inputs(name, 1, small=False)
    recipe = targets.get("native").recipe
    nets = [
        fxquant.compile(_quantized(name, bits, recipe, small=False), "native", threads=1, against_float=False)
        for bits in WIDTHS
    ]
    best = [float("inf")] * len(nets)
    with torch.no_grad():
        for _ in range(ROUNDS):
            for i, net in enumerate(nets):
                started = time.perf_counter()
                net(*x)
                best[i] = min(best[i], time.perf_counter() - started)
    return best[0], best[1]


if __name__ == "__main__":
    sys.exit(main())
