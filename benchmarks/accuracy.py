"""Accuracy of networks with real weights on real data: float, int8 in Python, int8 compiled.

    python benchmarks/accuracy.py [case ...] [--recipe avx2] [--images 1000] [--observer percentile] [--data folder]

The data are not part of the project. A data folder holds `cases.py` with `CASES` (names) and `load(name)`, which gives
an object with `model` (float, eval mode), `calibration`, `inputs` and `labels` (tensors, batch first). It is looked for
in `--data`, in `$FXQUANT_DATA`, and in `shared/data` beside the clone. The table that is printed is Markdown.
"""

from __future__ import annotations

import argparse
import importlib.util
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

import fxquant
from fxquant import scheme
from fxquant.recipe import NAMED

BATCH = 50
BESIDE = Path(__file__).resolve().parents[2] / "shared" / "data"


class Case(Protocol):
    """One network with its data; `inputs` float32 and batch first, `labels` int64 class ids."""

    name: str
    model: nn.Module
    calibration: Tensor
    inputs: Tensor
    labels: Tensor


@dataclass(frozen=True)
class Row:
    """What was measured of one case: accuracies and agreement with float (same first class) in percent, SQNR in dB.

    `identical` says whether Python and compiled code gave the same numbers for every image.
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

    def markdown(self) -> str:
        """A line of the table."""
        percent = (f"{share:.2f} %" for share in (self.float32, self.python, self.compiled, self.agreement))
        exact = "yes" if self.identical else "NO"
        cells = (self.case, self.recipe, self.images, *percent, f"{self.sqnr:.1f} dB", exact)
        return "| " + " | ".join(str(cell) for cell in cells) + " |"


HEADER = """\
| case | recipe | images | float32 | int8 in Python | int8 compiled | agrees with float | SQNR | Python = compiled |
|---|---|---|---|---|---|---|---|---|"""


def data_folder(given: str | None = None) -> Path:
    """The folder with `cases.py`; raises FileNotFoundError with the places that were looked at."""
    places = [Path(place) for place in (given, os.environ.get("FXQUANT_DATA")) if place] or [BESIDE]
    for place in places:
        if (place / "cases.py").is_file():
            return place
    raise FileNotFoundError(f"no cases.py in {' or '.join(map(str, places))}: point FXQUANT_DATA at the data folder")


def case_names(folder: Path) -> list[str]:
    """Names of the cases in a data folder."""
    return list(_cases(folder).CASES)


def load(folder: Path, name: str) -> Case:
    """One case of a data folder."""
    found: Case = _cases(folder).load(name)
    return found


def _cases(folder: Path) -> Any:
    name = "fxquant_accuracy_cases"
    known = sys.modules.get(name)
    if known is not None and known.__file__ == str(folder / "cases.py"):
        return known
    spec = importlib.util.spec_from_file_location(name, folder / "cases.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    # dataclasses look their module up here.
    sys.modules[name] = module
    spec.loader.exec_module(module)
    return module


def measure(case: Case, images: int | None = None, observer: str = "minmax", recipe: str = "default") -> Row:
    """Carry one case through the whole road and compare on its first `images` inputs (None: all).

    `recipe` is the name of one, `observer` that of its activations.
    """
    graph = fxquant.trace(case.model, (case.calibration[:2],))
    wanted = replace(fxquant.Recipe.named(recipe), activation=scheme.activation(observer=observer))
    quantized = fxquant.quantize(graph, _batches(case.calibration), recipe=wanted)
    inputs, labels = case.inputs[:images], case.labels[:images]
    with fxquant.compile(quantized) as net:
        real, python, compiled = (_predict(f, inputs) for f in (case.model, quantized, net))

    def top1(logits: Tensor) -> float:
        return 100.0 * float((logits.argmax(1) == labels).double().mean())

    agreement = 100.0 * float((real.argmax(1) == compiled.argmax(1)).double().mean())
    noise = (real - compiled).double().square().sum()
    sqnr = 10.0 * float(torch.log10(real.double().square().sum() / noise))
    same = torch.equal(python, compiled)
    return Row(case.name, recipe, len(labels), top1(real), top1(python), top1(compiled), agreement, sqnr, same)


def _predict(function: Callable[[Tensor], Tensor], inputs: Tensor) -> Tensor:
    with torch.no_grad():
        return torch.cat([function(x) for x in _batches(inputs)])


def _batches(inputs: Tensor) -> list[Tensor]:
    return [inputs[start : start + BATCH] for start in range(0, len(inputs), BATCH)]


def main() -> int:
    """Print the table; 0 when Python and compiled code agree everywhere, 1 when they do not, 2 without data."""
    parser = argparse.ArgumentParser(description="Accuracy of networks with real weights on real data.")
    parser.add_argument("cases", nargs="*", help="names of cases (all)")
    parser.add_argument("--recipe", action="append", choices=list(NAMED), help="may be repeated (default)")
    parser.add_argument("--images", type=int, help="how many evaluation images (all)")
    parser.add_argument("--observer", default="minmax", help="activation observer (minmax)")
    parser.add_argument("--data", help="data folder ($FXQUANT_DATA, or shared/data beside the clone)")
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
    identical = True
    for name in options.cases or known:
        for recipe in options.recipe or ["default"]:
            row = measure(load(folder, name), options.images, options.observer, recipe)
            identical &= row.identical
            print(row.markdown(), flush=True)
    return 0 if identical else 1


if __name__ == "__main__":
    sys.exit(main())
