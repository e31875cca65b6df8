"""Every convolutional network of the zoo on every standalone target that holds it: are its integers Python's?

python benchmarks/standalone_zoo.py                                       all of them, an hour or more
python benchmarks/standalone_zoo.py resnet18 unet --target armv7-neon

Networks run under emulation at their small sizes. One that does not fit a memory is named with the linker's
words; a wrong element ends the program with status 1. The tests run a choice of these.
"""

from __future__ import annotations

import argparse
import sys
import time
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent))

import fxquant
from fxquant import targets
from fxquant.targets.standalone.export import standalone
from fxquant.tools.emulate import emulate
from fxquant.tools.emulate.programs import EmulationError
from tests import zoo
from tests.targets.standalone.made import EMULATED, network


def main() -> int:
    """Parse the command line and run the matrix; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    convolutional = [name for name, entry in zoo.ZOO.items() if entry.convolutional]
    parser.add_argument("networks", nargs="*", default=convolutional)
    parser.add_argument("--target", action="append", choices=EMULATED, help="may be repeated")
    wanted = parser.parse_args()
    wrong = [
        (name, target)
        for name in wanted.networks
        for target in wanted.target or EMULATED
        if not _is_exact(name, target)
    ]
    return 1 if wrong else 0


def _is_exact(name: str, target_name: str) -> bool:
    """Print a line; False for wrong integers only."""
    started, target, console = time.perf_counter(), targets.get(target_name), Console(highlight=False)
    graph = fxquant.integer_ports(network(name))
    try:
        made = standalone(graph, target, "net")
        run = emulate(made.files, "net", made.report, target)
    except EmulationError as error:
        console.print(f"{name:20} {target_name:16} not run: {str(error)[:120]}", markup=False)
        return True
    verdict = "exact" if run.wrong == 0 else f"{run.wrong} WRONG"
    counted = "not counted" if run.instructions is None else f"{run.instructions:,} instructions"
    facts = f"{counted}, arena {made.report['arena_bytes']:,}, stack {run.stack_bytes:,}"
    seconds = time.perf_counter() - started
    console.print(f"{name:20} {target_name:16} {verdict}: {facts}, {seconds:.0f} s", markup=False, soft_wrap=True)
    return run.wrong == 0


if __name__ == "__main__":
    sys.exit(main())
