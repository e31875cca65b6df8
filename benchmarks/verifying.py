"""What the proof of memory safety takes, network by network: processor seconds, beside those of lowering.

    python benchmarks/verifying.py                                          the usual ones
    python benchmarks/verifying.py --network resnet50 --target x86-avx2     one of the zoo, at its full size

"first" is with nothing known of any kernel, "again" with what is kept beside the object code, as a process finds it
that compiles the same kernels as one before, whatever the weights. The digests of kernels are not in it: the cache of
object code needs them anyway.
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from torch import fx

import fxquant
from fxquant import targets
from fxquant.targets.lowering import lower
from fxquant.targets.lowering.library import library
from fxquant.targets.planner import plan_memory
from fxquant.targets.tvm_api import function_digest
from fxquant.targets.verify import known
from fxquant.targets.verify.verifier import verify
from tests import zoo

USUAL = ("resnet18", "mobilenet_v2", "vit_tiny")
Found = TypeVar("Found")


def main() -> int:
    """Print a line for each network and target."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--network", action="append", choices=list(zoo.ZOO), help="may be repeated")
    parser.add_argument("--target", action="append", help="hosted ones; may be repeated")
    parser.add_argument("--shallow", action="store_true", help="at their small sizes")
    wanted = parser.parse_args()
    print(f"{'network':20} {'target':16} kernels  calls   lowering      first      again")
    for name in wanted.network or USUAL:
        x = zoo.inputs(name, 1)
        graph = fxquant.trace(zoo.build(name, shallow=wanted.shallow), x)
        quantized = fxquant.quantize(graph, [x], progress=False)
        for target in wanted.target or ["x86-avx2"]:
            print(_line(name, quantized, target), flush=True)
    return 0


def _line(name: str, quantized: fx.GraphModule, target: str) -> str:
    made = targets.get(target)
    lowering, program = _timed(lambda: lower(quantized, library(made.isa), made.s8_bias))
    plan = plan_memory(program)
    for kernel in program.kernels.values():
        function_digest(kernel.func)
    with tempfile.TemporaryDirectory() as folder:
        os.environ["FXQUANT_CACHE"] = folder
        known.forget()
        first, _ = _timed(lambda: verify(program, plan))
        known.forget()
        again, _ = _timed(lambda: verify(program, plan))
    seconds = "".join(f" {taken:8.3f} s" for taken in (lowering, first, again))
    return f"{name:20} {target:16} {len(program.kernels):7} {len(program.calls):6}{seconds}"


def _timed(work: Callable[[], Found]) -> tuple[float, Found]:
    start = time.process_time()
    found = work()
    return time.process_time() - start, found


if __name__ == "__main__":
    sys.exit(main())
