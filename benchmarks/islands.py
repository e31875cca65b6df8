"""Every operator in float: compiled, it computes what torch does, or it is refused by name.

    python benchmarks/islands.py                       all of them
    python benchmarks/islands.py --only "index/*"      some
    python benchmarks/islands.py --json FILE           and write what came of each

A case is a line in `tests/targets/islands/cases_*.py`; all operators that torch tags as core are among them, or stand
with a reason in `core.py`. The exit status is 1 where compiled code differs, or anything but a FxquantError is raised.
"""

from __future__ import annotations

import argparse
import fnmatch
import json
import sys
from collections import Counter
from dataclasses import asdict
from pathlib import Path

import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

torch.manual_seed(0)

from tests.targets.islands import cases_core, cases_elements, cases_layers, cases_tensors  # noqa: E402
from tests.targets.islands.sweep import Outcome, outcome  # noqa: E402

ALL = [*cases_elements.CASES, *cases_tensors.CASES, *cases_layers.CASES, *cases_core.CASES]


def main() -> int:
    """Try what the command line asks for."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", default="*", metavar="GLOB", help='which cases, as in "index/*"')
    parser.add_argument("--json", type=Path, metavar="FILE", help="write the outcomes there")
    asked = parser.parse_args()
    torch.set_num_threads(1)
    found: list[Outcome] = []
    for case in ALL:
        if fnmatch.fnmatch(case.name, asked.only):
            found.append(outcome(case))
            print(_row(found[-1]), flush=True)
    if asked.json:
        asked.json.write_text(json.dumps([asdict(one) for one in found], indent=1), encoding="utf-8")
    counts = Counter(one.kind for one in found)
    print(
        f"{len(found)} tried: "
        + ", ".join(f"{counts[kind]} {kind}" for kind in ("equal", "refused", "different", "crashed"))
    )
    return 1 if counts["different"] or counts["crashed"] else 0


def _row(one: Outcome) -> str:
    reason = " ".join(one.reason.split()).partition("compiled in float: ")
    return f"{one.name:34} {one.kind:10} {one.seconds:6.2f} s  {(reason[2] or reason[0])[:110]}".rstrip()


if __name__ == "__main__":
    sys.exit(main())
