"""How far somebody must walk through the house to follow one graph from `compile` to a model that runs.

    python benchmarks/following.py             the sum
    python benchmarks/following.py --verbose   every step

A file is entered where a function of it is called for the first time that is handed the graph, or what becomes of it:
an fx graph, lowering's context, the program, the artifact. The graph is a convolution, a ReLU, quantize and dequantize.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from types import CodeType, FrameType
from typing import Any

import torch
from torch import fx, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

import fxquant
from fxquant.runtime.artifact import Artifact
from fxquant.targets.lowering.workspace import Workspace
from fxquant.targets.program import Program

ROOT = Path(__file__).resolve().parent.parent
# Ours, and nothing that a virtual environment in the same folder has.
ROOMS = tuple(f"{ROOT}/{room}/" for room in ("fxquant", "passes", "targets", "tools"))
CARRIED = (fx.GraphModule, fx.Graph, Workspace, Program, Artifact)
Steps = list[tuple[str, list[str]]]


def followed(graph: fx.GraphModule, target: str) -> Steps:
    """Files in the order in which they are entered, each with the functions called there for the first time."""
    steps: Steps = []
    seen: set[CodeType] = set()

    def watch(frame: FrameType, event: str, _argument: Any) -> None:
        code = frame.f_code
        ours = event == "call" and code.co_filename.startswith(ROOMS) and code.co_name[0] != "<"
        if not ours or code in seen or not _is_handed_it(frame):
            return
        seen.add(code)
        file = Path(code.co_filename).resolve().relative_to(ROOT).as_posix()
        if not steps or steps[-1][0] != file:
            steps.append((file, []))
        steps[-1][1].append(code.co_qualname)

    before = sys.getprofile()
    sys.setprofile(watch)
    try:
        fxquant.compile(graph, target, against_float=False)
    finally:
        sys.setprofile(before)
    return steps


def _is_handed_it(frame: FrameType) -> bool:
    code = frame.f_code
    names = code.co_varnames[: code.co_argcount + code.co_kwonlyargcount]
    return any(isinstance(frame.f_locals.get(name), CARRIED) for name in names)


def counts(steps: Steps) -> tuple[int, int]:
    """Files, and returns to one that was left."""
    files = {file for file, _ in steps}
    return len(files), len(steps) - len(files)


def example() -> fx.GraphModule:
    """The graph that is followed, INTEGER."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x, model = torch.randn(4, 8, 6, 6), nn.Sequential(nn.Conv2d(8, 16, 3, padding=1), nn.ReLU())
    return fxquant.quantize(fxquant.trace(model.eval(), x), [x], progress=False)


def main() -> None:
    """Parse the command line and walk."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--target", default="x86-avx2")
    parser.add_argument("--verbose", action="store_true", help="print every step")
    wanted = parser.parse_args()
    steps = followed(example(), wanted.target)
    for file, functions in steps if wanted.verbose else ():
        print(f"{file}: {', '.join(functions)}")
    files, returns = counts(steps)
    print(f"{files} files are entered, and {returns} times one that was left")


if __name__ == "__main__":
    main()
