"""A comparison as tables for a terminal."""

from __future__ import annotations

from rich.box import SIMPLE_HEAD
from rich.markup import escape
from rich.table import Table

from fxquant.tools.compare.records import Comparison, Layer, Recovery

SHOWN = 20


def tables(found: Comparison) -> list[Table]:
    """The worst layers, the whole network, and what a search found."""
    return [_layers(found), _whole(found), *([_recovery(found.recovery)] if found.recovery else [])]


def _layers(found: Comparison) -> Table:
    shown = found.worst(SHOWN)
    title = f"the {len(shown)} layers of {len(found.layers)} that lose the most by themselves, worst first"
    table = Table(title=title, box=SIMPLE_HEAD, title_justify="left")
    for name in ("layer", "operation", "module", "source"):
        table.add_column(name, overflow="fold", no_wrap=name == "layer")
    for name in ("local dB", "cumulative dB", "clipped", "saturated"):
        table.add_column(name, justify="right", no_wrap=True)
    for layer in shown:
        table.add_row(*map(escape, _row(layer)))
    return table


def _row(layer: Layer) -> list[str]:
    place = layer.source.partition(" ")[0].rpartition("/")[2]
    text = [layer.name, layer.operation.removeprefix("fxq."), layer.module, place]
    share = f"{layer.saturated / layer.count:.3%}"
    return [*text, f"{layer.local_db:.1f}", f"{layer.cumulative_db:.1f}", f"{layer.clipped:.3%}", share]


def _whole(found: Comparison) -> Table:
    table = Table(title=f"over {found.samples} samples", show_header=False, box=SIMPLE_HEAD, title_justify="left")
    table.add_row("output SQNR", ", ".join(f"{db:.1f} dB" for db in found.output_db))
    if found.agreement is not None:
        table.add_row("same predictions (argmax)", f"{found.agreement:.2%}")
    return table


def _recovery(found: Recovery) -> Table:
    table = Table(title="left in float, to reach the goal", show_header=False, box=SIMPLE_HEAD, title_justify="left")
    rows = [("measured by", found.measure), ("goal", f"{found.goal:g}"), ("all in integers", f"{found.before:.4g}")]
    if not found.layers:
        rows.append(("needed", "nothing"))
    else:
        rows += [("layers", ", ".join(found.layers)), ("rules keep_float", ", ".join(found.keep_float))]
        rows.append(("with these in float", f"{found.after:.4g}{'' if found.is_reached else ', still short of it'}"))
    for name, text in [*rows, ("quantizations tried", str(found.tried))]:
        table.add_row(name, escape(text))
    return table
