"""Architectures that nobody here wrote, carried the whole road: torchvision, timm, transformers, and real weights.

    python benchmarks/models.py --json sweep.jsonl                        all of them; again: what is not there yet
    python benchmarks/models.py --only "timm/test_*" --only resnet        some of them
    python benchmarks/models.py --chosen                                  25 that have most operators between them
    python benchmarks/models.py --json sweep.jsonl --faulty               once more what was not as it must be
    python benchmarks/models.py --json sweep.jsonl --until compile        up to the integer graph, without compiling
    python benchmarks/models.py --json sweep.jsonl --write docs/models.md

`pip install "fxquant[models]"` brings the packages; those that are missing are left out, and told. Nothing is
downloaded: weights are drawn with a fixed seed and batch statistics settled, or ship with their package. Every model
has a process of its own with limits of time (`--seconds`) and memory (`--memory`, GiB); each row is written as soon as
it is known. The exit status is 1 if any is not as it must be.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Iterator, Sequence
from functools import cache
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from benchmarks.foreign import from_others, from_timm, from_torchvision, from_transformers
from benchmarks.foreign.architecture import Architecture, chosen, installed
from benchmarks.foreign.children import Limits, judged
from benchmarks.foreign.judge import INPUTS
from benchmarks.foreign.row import STAGES, Row
from benchmarks.foreign.table import document, first_line, reasons, summary, those_built

# Small ones, that have most operators of all between them.
CHOSEN = (
    *(f"timm/test_{n}" for n in "byobnet convnext coatnet efficientnet efficientnet_evos efficientnet_gn".split()),
    *(f"timm/test_{n}" for n in "mambaout maxvit nfnet vit vit_relpos".split()),
    *(f"transformers/{n}" for n in "albert bloom deberta-v2 llama mamba t5 swinv2 wav2vec2 m2m_100 yoso".split()),
    *("transformers/squeezebert", "facenet/PNet", "facenet/ONet", "smp/Segformer"),
)

_SOURCES = (from_others, from_torchvision, from_timm, from_transformers)


@cache
def everything() -> dict[str, Architecture]:
    """All architectures by name."""
    return {one.name: one for source in _SOURCES for one in source.architectures()}


def find(name: str) -> Architecture:
    """The architecture of this name."""
    return everything()[name]


def read(path: Path | None) -> dict[str, Row]:
    """The rows of a file, the last of each name."""
    if path is None or not path.exists():
        return {}
    rows = (Row.of(json.loads(line)) for line in path.read_text().splitlines() if line.strip())
    return {row.name: row for row in rows}


def sweep(names: Sequence[Architecture], given: argparse.Namespace) -> Iterator[Row]:
    """A row for each, in order, written to the file."""
    limits = Limits(given.seconds, given.memory)
    for number, one in enumerate(names, 1):
        row = judged(one.name, one.package, find, given.until, given.inputs, limits)
        if given.json is not None:
            with given.json.open("a") as file:
                file.write(json.dumps(row.to_json()) + "\n")
        print(f"[{number}/{len(names)}] {told(row)}", flush=True)
        yield row


def told(row: Row) -> str:
    """A line while the sweep goes on."""
    faults = "; ".join(row.faults) or "as it must be"
    sqnr = "" if row.sqnr is None or row.ideal is None else f", {row.sqnr:.1f} dB (ideal {row.ideal:.1f})"
    seconds = " ".join(f"{step} {spent:.1f}" for step, spent in row.seconds.items())
    error = f"\n    {first_line(row.error, 400)}" if row.error else ""
    islands = "".join(f"\n    {count} x {reason}" for reason, count in row.islands.items())
    return f"{row.name}: {row.stage}, {faults}{sqnr} [{seconds}]{islands}{error}"


def _wanted(given: argparse.Namespace, known: dict[str, Row]) -> list[Architecture]:
    there: dict[str, bool] = {}
    found = []
    for one in chosen(everything().values(), given.only):
        row = known.get(one.name)
        if given.chosen and one.name not in CHOSEN:
            continue
        is_due = row is None or given.again or (given.faulty and bool(row.faults or row.stage == "build"))
        if is_due and there.setdefault(one.package, installed(one.package)):
            found.append(one)
    for package, is_there in there.items():
        if not is_there:
            print(f"{package} is not installed, or cannot be imported: left out", file=sys.stderr)
    return found


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--only", action="append", default=[], help="part of a name, or a pattern (may be repeated)")
    parser.add_argument("--chosen", action="store_true", help=f"the {len(CHOSEN)} that cover most operators")
    parser.add_argument("--json", type=Path, help="rows as JSON lines; what is there is not done again")
    parser.add_argument("--faulty", action="store_true", help="do again what was not as it must be")
    parser.add_argument("--again", action="store_true", help="do all again")
    parser.add_argument("--until", choices=STAGES, default="done", help="stop before this step")
    parser.add_argument("--inputs", type=int, default=INPUTS, help=f"calibration inputs ({INPUTS})")
    parser.add_argument("--seconds", type=float, default=Limits.seconds, help="wall time for one")
    parser.add_argument("--memory", type=float, default=Limits.memory, help="GiB for one")
    parser.add_argument("--write", type=Path, help="write the page of all rows of --json")
    parser.add_argument("--list", action="store_true", help="only print the names")
    return parser


def main() -> int:
    """Sweep, print the summary; 0 when all is as it must be."""
    given = _parser().parse_args()
    if given.list:
        print("\n".join(one.name for one in chosen(everything().values(), given.only)))
        return 0
    from_torchvision.register_operators()
    known = read(given.json)
    new = {row.name: row for row in sweep(_wanted(given, known), given)}
    rows = those_built([row for name, row in {**known, **new}.items() if name in everything()])
    print(f"\n{summary(rows)}\n\n{reasons(rows)}")
    if given.write is not None:
        given.write.write_text(document(rows))
    return 1 if any(row.faults for row in rows) else 0


# Children import this file again.
if __name__ == "__main__":
    sys.exit(main())
