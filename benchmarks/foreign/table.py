"""What a sweep found, as Markdown: the bars first, then what is in the way, then a line for each architecture."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence

from benchmarks.foreign.row import ALLOWED_DB, TO_COMPILE, TO_QUANTIZE, Row

HEADER = (
    "architecture",
    "parameters",
    "operations",
    "float islands",
    "MACs in integers",
    "SQNR",
    "ideal",
    "compiled = Python",
    "to quantize",
    "to compile",
    "float / int8",
    "what is wrong",
)


_INTRODUCTION = """\
# Models that nobody here wrote

Written by `python benchmarks/models.py --json FILE --write docs/models.md`; do not edit by hand.

Architectures of other people's packages (`pip install "fxquant[models]"`), small ones of every family, with small
inputs. Nothing is downloaded: weights are drawn with a fixed seed and batch statistics settled, except where a package
ships trained ones. Drawn weights make many networks chaotic, so that no quantization keeps their numbers: that is why
the *ideal* stands beside the SQNR, a simulation in float in which each value is rounded to 8 bits by its own range.
What is more than 3 dB below it is a fault. `python benchmarks/models.py --chosen` does 25 that have most operators
between them. Where the columns of compiled code are empty, the sweep stopped before it (`--until compile`).
"""


def document(rows: Sequence[Row]) -> str:
    """The page that docs/models.md is."""
    built = those_built(rows)
    parts = [_INTRODUCTION.rstrip(), summary(built), reasons(built), table(built)]
    return "\n\n".join(part for part in parts if part) + "\n"


def those_built(rows: Sequence[Row]) -> list[Row]:
    """Without those that their own package could not build or run."""
    return [row for row in rows if row.stage != "build"]


def summary(rows: Sequence[Row]) -> str:
    """How many of how many keep each promise."""
    compiled = [row for row in rows if row.reached > _COMPILED]
    through = [row for row in rows if row.has("quantize")]
    lines = [
        _share("are traced", rows, lambda row: row.has("trace")),
        _share("are quantized, of those", [r for r in rows if r.has("trace")], lambda row: row.has("quantize")),
        _share("are fully integer between input and output, of those", through, lambda row: row.is_integer),
        _share(
            f"come within {ALLOWED_DB:g} dB of the ideal simulation, of those", through, lambda row: row.is_faithful
        ),
        _share(
            "compile, of those that were tried",
            [r for r in through if r.has("look") and (r.stage != "compile" or r.error)],
            _compiles,
        ),
        _share("give the same compiled as in Python, of those", compiled, lambda row: row.is_equal),
        _share("are faster than float or say that they are not", _raced(compiled), lambda r: not r.is_slow_silently),
        _share(
            f"are traced and quantized in {TO_QUANTIZE:g} CPU seconds",
            through,
            lambda r: r.took("trace", "quantize") <= TO_QUANTIZE,
        ),
        _share(f"are compiled in {TO_COMPILE:g} CPU seconds", compiled, lambda r: r.took("compile") <= TO_COMPILE),
    ]
    return "\n".join(["| of architectures | how many |", "|---|---|", *lines])


_COMPILED = 4


def _compiles(row: Row) -> bool:
    return row.has("compile")


def _raced(rows: Iterable[Row]) -> list[Row]:
    return [row for row in rows if row.speed is not None]


def _share(what: str, rows: Sequence[Row], holds: Callable[[Row], bool]) -> str:
    count = sum(map(holds, rows))
    percent = f", {100 * count / len(rows):.1f} %" if rows else ""
    return f"| {what} | {count} of {len(rows)}{percent} |"


def reasons(rows: Sequence[Row]) -> str:
    """What stayed float and why, and what was refused, the most frequent first."""
    islands = Counter(reason for row in rows for reason in row.islands)
    refused = Counter(first_line(row.error) for row in rows if row.error)
    parts = []
    if islands:
        lines = [f"| {_cell(reason)} | {count} |" for reason, count in islands.most_common()]
        parts.append("\n".join(["| stayed float | architectures |", "|---|---|", *lines]))
    if refused:
        lines = [f"| {_cell(error)} | {count} |" for error, count in refused.most_common()]
        parts.append("\n".join(["| refused or failed | architectures |", "|---|---|", *lines]))
    return "\n\n".join(parts)


def table(rows: Iterable[Row]) -> str:
    """A line for each architecture."""
    lines = [_line(HEADER), _line(["---"] * len(HEADER))]
    return "\n".join(lines + [_line(cells(row)) for row in sorted(rows, key=lambda row: row.name.lower())])


def cells(row: Row) -> list[str]:
    """One line's."""
    judged = row.sqnr is not None and row.ideal is not None
    return [
        row.name,
        f"{row.parameters / 1e6:.2f} M",
        str(row.operations or ""),
        str(sum(row.islands.values())) if row.has("look") else "",
        f"{100 * row.integer_share:.1f} %" if row.has("look") else "",
        f"{row.sqnr:.1f} dB" if judged else "",
        f"{row.ideal:.1f} dB" if judged else "",
        "" if row.differs is None else "yes" if row.differs == 0 else f"{row.differs:.1g} of the range",
        f"{row.took('trace', 'quantize'):.1f} s" if row.has("quantize") else "",
        f"{row.took('compile'):.1f} s" if row.has("compile") else "",
        "" if row.speed is None else f"{row.speed:.2f}" + (", told" if row.warned else ""),
        _cell("; ".join(row.faults) + (f": {first_line(row.error)}" if row.error else "")),
    ]


def first_line(error: str, most: int = 160) -> str:
    """What is said first; where packages are installed is left out."""
    plain = re.sub(r"/\S*/site-packages/", "", error)
    lines = [line.strip() for line in plain.splitlines() if line.strip()]
    return lines[0][:most] if lines else ""


def _cell(text: str) -> str:
    return text.replace("|", "\\|").replace("<", "&lt;")


def _line(several: Iterable[str]) -> str:
    return "| " + " | ".join(several) + " |"
