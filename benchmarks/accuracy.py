"""Accuracy of networks with real weights on real data: float, integers in Python, integers compiled.

    python benchmarks/accuracy.py                                    all cases, effort fast and balanced
    python benchmarks/accuracy.py --recipe default --recipe per-tensor --recipe w4 --json found.json
    python benchmarks/accuracy.py --setting default:fast --setting default:balanced --setting w4:max
    python benchmarks/accuracy.py cifar10_resnet20 --limit 500 --effort fast --observer percentile

The data are not part of the project: see `accuracy_cases.py` for what a data folder holds. It is looked for in
`--data`, in `$FXQUANT_DATA`, and in `shared/data` beside the clone. Two tables are printed, both Markdown: a line for
everything that was measured, and a line for each case with a column for each recipe and effort. With `--json` the file
is written after every measurement; started again with it, what this very code has measured is not measured again.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import sys
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

import fxquant
from benchmarks.accuracy_cases import Case, agreement, case_names, data_folder, load, metric, score
from fxquant.atomic import write_file
from fxquant.progress import working
from fxquant.recipe import NAMED, Recipe
from fxquant.tools.effort import EFFORTS, Effort

BATCH = 50
ROOT = Path(__file__).resolve().parent.parent
RECIPES: dict[str, Recipe] = {
    **NAMED,
    "per-tensor": Recipe.from_dict({"weight": {"axis": None}}),
    "w4": Recipe.from_dict({"weight": {"bits": 4}}),
    "16x8": Recipe.from_dict({"activation": {"bits": 16}}),
}


@dataclass(frozen=True)
class Row:
    """What was measured of one case: scores by its `metric` and agreement with float in percent, SQNR in dB.

    `identical` says whether Python and compiled code gave the same numbers for every input.
    """

    case: str
    recipe: str
    images: int
    float32: float
    python: float
    compiled: float
    agreement: float
    sqnr: float
    identical: bool
    effort: str = "fast"
    observer: str = "minmax"
    metric: str = "top-1"

    @property
    def setting(self) -> str:
        """Recipe, effort and observer, where these are not the usual ones."""
        usual = {"fast", "minmax"}
        return " ".join([self.recipe, *(word for word in (self.effort, self.observer) if word not in usual)])

    @property
    def short(self) -> str:
        """Points lost, and agreement: '0.2 / 98.6'."""
        return f"{self.float32 - self.compiled:.2f} / {self.agreement:.2f}"

    def markdown(self) -> str:
        """A line of the table."""
        percent = (f"{share:.2f} %" for share in (self.float32, self.python, self.compiled, self.agreement))
        exact = "yes" if self.identical else "NO"
        cells = (self.case, self.setting, self.images, *percent, f"{self.sqnr:.1f} dB", exact)
        return "| " + " | ".join(str(cell) for cell in cells) + " |"


HEADER = """\
| case | recipe | images | float32 | int8 in Python | int8 compiled | agrees with float | SQNR | Python = compiled |
|---|---|---|---|---|---|---|---|---|"""


def measure(
    case: Case, images: int | None = None, observer: str = "minmax", recipe: str = "default", effort: Effort = "fast"
) -> Row:
    """Carry one case through the whole road and compare on its first `images` inputs (None: all).

    `recipe` is the name of one, `observer` that of its activations.
    """
    calibration, inputs = _several(case.calibration), [x[:images] for x in _several(case.inputs)]
    labels = None if case.labels is None else case.labels[:images]
    base = RECIPES[recipe]
    wanted = replace(base, activation=base.activation.with_(observer=observer))
    graph = fxquant.trace(case.model, tuple(x[:2] for x in calibration))
    quantized = fxquant.quantize(graph, list(_batches(calibration)), recipe=wanted, effort=effort)
    with fxquant.compile(quantized, against_float=False) as net:
        real, python, compiled = (_predict(f, inputs) for f in (case.model, quantized, net))
    noise = (real - compiled).double().square().sum()
    return Row(
        case=case.name,
        recipe=recipe,
        images=len(inputs[0]),
        **{name: score(x, real, labels) for name, x in (("float32", real), ("python", python), ("compiled", compiled))},
        agreement=agreement(compiled, real, labels),
        sqnr=10.0 * float(torch.log10(real.double().square().sum() / noise)),
        identical=torch.equal(python, compiled),
        effort=effort,
        observer=observer,
        metric=metric(labels),
    )


def overview(rows: Sequence[Row]) -> str:
    """A line for each case, with points lost and agreement in percent for each setting."""
    settings = list(dict.fromkeys(row.setting for row in rows))
    lines = [f"| case | judged by | float32 | {' | '.join(settings)} |", "|---" * (3 + len(settings)) + "|"]
    for name in dict.fromkeys(row.case for row in rows):
        own = {row.setting: row for row in rows if row.case == name}
        first = next(iter(own.values()))
        cells = [own[setting].short if setting in own else "" for setting in settings]
        lines.append(f"| {name} | {first.metric} | {first.float32:.2f} | {' | '.join(cells)} |")
    return "\n".join(lines)


def _several(data: Tensor | Sequence[Tensor]) -> list[Tensor]:
    return [data] if isinstance(data, Tensor) else list(data)


def _predict(function: Callable[..., Any], inputs: Sequence[Tensor]) -> Tensor:
    with torch.no_grad():
        found = [function(*batch) for batch in _batches(inputs)]
    return torch.cat([x[0] if isinstance(x, (tuple, list)) else x for x in found])


def _batches(inputs: Sequence[Tensor]) -> Iterator[tuple[Tensor, ...]]:
    for start in range(0, len(inputs[0]), BATCH):
        yield tuple(x[start : start + BATCH] for x in inputs)


class _Found:
    """Rows that were measured, kept in a file; those of other code are none."""

    def __init__(self, path: Path | None) -> None:
        self.path, self.code = path, _code()
        self.rows: list[Row] = []
        if path is not None and path.exists():
            known = json.loads(path.read_text())
            self.rows = [Row(**row) for row in known["rows"]] if known["code"] == self.code else []

    def find(self, **wanted: object) -> Row | None:
        """The row of just this measurement, if there is one."""
        return next((row for row in self.rows if wanted.items() <= asdict(row).items()), None)

    def add(self, row: Row) -> None:
        """Keep a row."""
        self.rows.append(row)
        if self.path is not None:
            document = {"code": self.code, "rows": [asdict(row) for row in self.rows]}
            write_file(self.path, json.dumps(document, indent=1).encode())


def _code() -> str:
    """A digest of all that is measured."""
    digest = hashlib.sha256()
    for room in ("fxquant", "passes", "targets", "tools"):
        for path in sorted((ROOT / room).rglob("*.py")):
            digest.update(path.read_bytes())
    return digest.hexdigest()[:16]


def _measured(folder: Path, names: Iterable[str], given: argparse.Namespace, found: _Found) -> Iterator[Row]:
    """All rows that were asked for, in order."""
    for name in names:
        case = load(folder, name)
        images = min(given.limit or sys.maxsize, len(_several(case.inputs)[0]))
        for recipe, effort in _settings(given):
            wanted = {"recipe": recipe, "effort": effort, "observer": given.observer}
            row = found.find(case=name, images=images, **wanted)
            if row is None:
                with working(f"{name}, {recipe}, {effort}"):
                    row = measure(case, images, **wanted)
                found.add(row)
            yield row


def _settings(given: argparse.Namespace) -> list[tuple[str, str]]:
    """Recipes with efforts: those that are named together, or every one with every other."""
    if given.setting:
        return [tuple(setting.split(":")) for setting in given.setting]
    return [(recipe, effort) for recipe in given.recipe or ["default"] for effort in given.effort or EFFORTS]


def main() -> int:
    """Print the tables; 0 when Python and compiled code agree everywhere, 1 when they do not, 2 without data."""
    parser = argparse.ArgumentParser(description="Accuracy of networks with real weights on real data.")
    parser.add_argument("cases", nargs="*", help="names of cases (all)")
    parser.add_argument("--recipe", action="append", choices=list(RECIPES), help="may be repeated (default)")
    parser.add_argument("--effort", action="append", choices=EFFORTS, help="may be repeated (all)")
    together = [f"{recipe}:{effort}" for recipe in RECIPES for effort in EFFORTS]
    told = "a recipe with an effort, in the place of both options above; may be repeated"
    parser.add_argument("--setting", action="append", choices=together, metavar="RECIPE:EFFORT", help=told)
    parser.add_argument("--limit", "--images", type=int, help="how many evaluation inputs (all)")
    parser.add_argument("--observer", default="minmax", help="activation observer (minmax)")
    parser.add_argument("--data", help="data folder ($FXQUANT_DATA, or shared/data beside the clone)")
    parser.add_argument("--json", type=Path, help="keep what is found in this file, and go on from it")
    options = parser.parse_args()
    try:
        folder = data_folder(options.data)
    except FileNotFoundError as error:
        print(error, file=sys.stderr)
        return 2
    known = case_names(folder)
    unknown = [name for name in options.cases if name not in known]
    if unknown:
        print(f"no case called {', '.join(unknown)}; there are: {', '.join(known)}", file=sys.stderr)
        return 2
    print(HEADER, flush=True)
    rows = []
    for row in _measured(folder, options.cases or known, options, _Found(options.json)):
        rows.append(row)
        print(row.markdown(), flush=True)
    print(f"\nPoints lost / agreement with float, both in percent:\n\n{overview(rows)}")
    return 0 if all(row.identical for row in rows) else 1


if __name__ == "__main__":
    sys.exit(main())
