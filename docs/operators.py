"""Writes `docs/operators.md` from the op table and the primitives.

    python docs/operators.py            write the page
    python docs/operators.py --check    status 1 if the page is not what would be written

The tests run the second.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Iterator
from importlib import import_module
from pathlib import Path
from pkgutil import iter_modules

from fxquant import primitives
from fxquant.ops.table import FloatOp, Fusion, RangeRule

PAGE = Path(__file__).with_name("operators.md")

_INTRODUCTION = """\
# Operators and primitives

Written by `python docs/operators.py` from `fxquant.ops.TABLE` and `fxquant.primitives`; do not edit by hand.

## Float operators with an integer spelling

What is not in this table, or not in the form that a record takes, stays in float as an island between a dequantize and
a quantize. The report names it with the reason, and a `strict` recipe refuses it.
"""

_RANGES = {
    RangeRule.OBSERVED: "observed",
    RangeRule.BOUNDED: "known, or narrower",
    RangeRule.KNOWN: "known",
    RangeRule.SHARED: "shared",
    RangeRule.JOINED: "joined",
    RangeRule.CARRIED: "observed, with the state",
}
_FUSIONS = {
    Fusion.SUM: "gives accumulators",
    Fusion.ADD: "takes and gives accumulators",
    Fusion.CLAMP: "clamps accumulators",
    Fusion.POINTWISE: "one lookup per chain",
    Fusion.NONE: "",
}


def page() -> str:
    """The whole page."""
    legend = [f"* *{_RANGES[rule]}*: {rule.value}." for rule in RangeRule]
    return "\n".join([_INTRODUCTION, *_operators(), "", "Ranges:", "", *legend, "", *_primitives(), ""])


def _operators() -> Iterator[str]:
    from fxquant.ops import TABLE

    yield "| operator | ATen overloads | what it becomes | range | fusion |"
    yield "|---|---|---|---|---|"
    records: dict[int, FloatOp] = {id(record): record for record in TABLE.values()}
    for record in records.values():
        overloads = ", ".join(str(t).removeprefix("aten.").removesuffix(".default") for t in record.targets)
        meaning = _cell(record.doc.split("\n\n")[0])
        yield f"| {record.name} | {overloads} | {meaning} | {_RANGES[record.range]} | {_FUSIONS[record.fusion]} |"


def _primitives() -> Iterator[str]:
    yield "## The integer instruction set"
    yield ""
    yield "Each is `torch.ops.fxq.<name>`; its body in `fxquant/primitives/` is its exact meaning. Data movement"
    yield "(reshape, permute, slice, concat, embedding) is plain ATen on integer tensors."
    yield ""
    yield "| primitive | meaning |"
    yield "|---|---|"
    for module in iter_modules(primitives.__path__, "fxquant.primitives."):
        for name, function in inspect.getmembers(import_module(module.name), inspect.isfunction):
            if name in primitives.PRIMITIVES and function.__module__ == module.name:
                yield f"| `{name}` | {_cell(inspect.getdoc(function) or '')} |"


def _cell(text: str) -> str:
    return " ".join(text.split("\n\n")[0].split()).replace("|", "\\|")


def main(arguments: list[str]) -> int:
    """Write or check the page."""
    if arguments != ["--check"]:
        PAGE.write_text(page())
    elif PAGE.read_text() != page():
        print("docs/operators.md is out of date: run python docs/operators.py")
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
