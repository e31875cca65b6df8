"""The viewer's twin for a terminal: the nodes of a graph as a table, chosen by an expression and sorted."""

from __future__ import annotations

import re
from collections.abc import Callable
from operator import eq, ge, gt, le, lt
from typing import Any

from fxquant.errors import FxquantError
from fxquant.names import did_you_mean
from fxquant.tools.view.document import Node, Run

Measure = Callable[[Node, Run], Any]

# As in the page's search: what can be compared with a number.
MEASURES: dict[str, Measure] = {
    "local_db": lambda node, run: run.measured.get(node.id, {}).get("local_db"),
    "cumulative_db": lambda node, run: run.measured.get(node.id, {}).get("cumulative_db"),
    "clipped": lambda node, run: 100 * run.measured[node.id]["clipped"] if node.id in run.measured else None,
    "saturated": lambda node, run: run.measured.get(node.id, {}).get("saturated"),
    "bytes": lambda node, run: node.bytes or None,
    "macs": lambda node, run: node.macs or None,
    "bits": lambda node, run: node.value.bits if node.value else None,
    "low": lambda node, run: node.value.low if node.value else None,
    "high": lambda node, run: node.value.high if node.value else None,
    "range": lambda node, run: node.value.high - node.value.low if node.value else None,
    "scale": lambda node, run: node.value.scale if node.value else None,
}
ALIASES = {"sqnr": "cumulative_db", "local": "local_db", "cumulative": "cumulative_db", "clip": "clipped"}

_COMPARISON = re.compile(r"([a-z_]+)(<=|>=|<|>|=)(-?[\d.]+(?:e-?\d+)?)", re.IGNORECASE)
_OPERATORS = {"<": lt, ">": gt, "<=": le, ">=": ge, "=": eq}


def found(run: Run, query: str = "", sort: str = "") -> list[Node]:
    """Calls of the last stage for which every word of `query` is found and every comparison holds.

    Sorted by the measure `sort`, worst first, where it is given. Raises FxquantError for an unknown measure.
    """
    tests = [_test(word, run) for word in query.split()]
    nodes = [node for node in run.nodes() if node.kind == "call" and all(test(node) for test in tests)]
    if not sort:
        return nodes
    measure, is_low_bad = _measure(sort), ALIASES.get(sort, sort).endswith("_db")
    known = [(value, node) for node in nodes if (value := measure(node, run)) is not None]
    return [node for _, node in sorted(known, key=lambda pair: pair[0] if is_low_bad else -pair[0])]


def hint(run: Run, query: str) -> str:
    """Of each word that is found nowhere, the names that are spelled nearly so; '' if every word is."""
    calls = [node for node in run.nodes() if node.kind == "call"]
    words = [word for word in query.split() if not _COMPARISON.fullmatch(word)]
    missing = [word for word in words if not any(map(_test(word, run), calls))]
    known = [name for node in calls for name in (node.id, *node.originals, node.operation.rpartition(".")[2])]
    return "; ".join(f"nothing here is called {word!r}{did_you_mean(word, known)}" for word in missing)


def _test(word: str, run: Run) -> Callable[[Node], bool]:
    comparison = _COMPARISON.fullmatch(word)
    if comparison is None:
        text = word.lower()
        return lambda node: any(text in part.lower() for part in _words(node, run))
    measure, holds = _measure(comparison[1]), _OPERATORS[comparison[2]]
    try:
        bound = float(comparison[3])
    except ValueError:
        raise FxquantError(f"{comparison[3]!r} in {word!r} is not a number") from None

    def test(node: Node) -> bool:
        value = measure(node, run)
        return value is not None and bool(holds(value, bound))

    return test


def _words(node: Node, run: Run) -> list[str]:
    """What words are looked for in; a rounding is also what it rounds: its row is that of the convolution."""
    parts = [node, *run.accumulators.get(node.id, ())]
    told = (text for part in parts for text in (part.operation, part.module, part.source))
    return [node.id, *node.originals, *node.aliases, *told]


def _measure(name: str) -> Measure:
    key = ALIASES.get(name, name)
    if key not in MEASURES:
        raise FxquantError(f"nothing is called {name!r}; there are {', '.join([*MEASURES, *ALIASES])}")
    return MEASURES[key]


def row(node: Node, run: Run) -> list[str]:
    """The cells of a node's row: see COLUMNS."""
    measured, value = run.measured.get(node.id), node.value
    operations = [part.operation for part in (*run.accumulators.get(node.id, ()), node)]
    return [
        node.id,
        " > ".join(name.removeprefix("fxq.") for name in operations),
        f"{node.dtype}[{','.join(map(str, node.shape))}]",
        f"[{value.low:.4g}, {value.high:.4g}]" if value else "",
        f"{value.scale:.4g}" if value else "",
        str(value.zero_point) if value else "",
        f"{measured['local_db']:.1f}" if measured else "",
        f"{measured['cumulative_db']:.1f}" if measured else "",
        f"{measured['clipped']:.3%}" if measured else "",
        node.source.partition(" ")[0].rpartition("/")[2],
    ]


COLUMNS = ("node", "operation", "value", "range", "scale", "zero", "local dB", "cumul. dB", "clipped", "source")
