"""Every network of the zoo as a file for aarch64 with fxquant's runtime: are its integers Python's?

python benchmarks/hosted_arm_zoo.py                                           all of them, half an hour
python benchmarks/hosted_arm_zoo.py resnet18 unet --target aarch64-i8mm

The files are loaded by an arm64 Python that has numpy alone, which QEMU runs (`tools/setup.sh tests` unpacks it), with
one thread and with two, on a batch of two and on one sample. Networks have their small sizes; vision transformers and
encoders, which have float islands or not by recipe, the default recipe. A wrong element ends with status 1. The tests
run a choice of these.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
import time
from pathlib import Path

from rich.console import Console

sys.path.insert(0, str(Path(__file__).parent.parent))

from tests import zoo
from tests.runtime.emulated_arm import PYTHON
from tests.runtime.test_hosted_arm import LOAD, TARGETS, run, saved
from tests.targets.standalone.made import quantized


def main() -> int:
    """Parse the command line and run the matrix; the exit status."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(zoo.ZOO))
    parser.add_argument("--target", action="append", choices=TARGETS, help="may be repeated")
    wanted = parser.parse_args()
    if not PYTHON.exists():
        print(f"there is no arm64 Python at {PYTHON}: run bash tools/setup.sh tests")
        return 2
    return 0 if all([_is_exact(name, tuple(wanted.target or TARGETS)) for name in wanted.networks]) else 1


def _is_exact(name: str, targets: tuple[str, ...]) -> bool:
    """Print a line for each target; whether all are exact."""
    console = Console(highlight=False)
    inputs = zoo.inputs(name, 2, 7)
    graph = quantized(zoo.build(name, shallow=True), *inputs)
    exact = True
    with tempfile.TemporaryDirectory() as folder:
        data, *paths = saved(graph, inputs, Path(folder), *targets)
        for target, path in zip(targets, paths, strict=True):
            started = time.perf_counter()
            done = run(LOAD, data, path)
            fine = done.stdout == f"equal {target}\n"
            exact = exact and fine
            verdict = "exact, with one thread and with two" if fine else f"WRONG: {done.stderr.strip()[-300:]}"
            seconds = time.perf_counter() - started
            console.print(f"{name:20} {target:16} {verdict}, {seconds:.0f} s", markup=False, soft_wrap=True)
    return exact


if __name__ == "__main__":
    sys.exit(main())
