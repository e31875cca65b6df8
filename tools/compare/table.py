"""A comparison as tables for a terminal."""

from __future__ import annotations

from rich.console import RenderableType
from rich.table import Table

from fxquant.gains import EXACT_DB
from fxquant.tools.compare.records import Comparison, Layer, Recovery
from fxquant.tools.shown import Column, Fitted, facts, numbers

SHOWN = 20


def tables(found: Comparison) -> list[RenderableType]:
    """Data outside of the calibrated ranges first, then the worst layers, the network, and what a search found."""
    first = [_outside(found)] if found.outside else []
    return [
        *first,
        _layers(found),
        _origins(found),
        _whole(found),
        *([recovery(found.recovery)] if found.recovery else []),
    ]


def _outside(found: Comparison) -> Fitted:
    title = (
        f"this data lies outside of what was calibrated, at {len(found.outside)} values: "
        "the errors below are of clipping first, and calibrating on data like this is their remedy"
    )
    columns = [Column("layer"), *numbers("clipped", "calibrated range", "this data")]
    table = Fitted(title, columns, style="yellow")
    for layer in found.outside[:SHOWN]:
        row = layer.name, f"{layer.clipped:.1%}", _span(*layer.range), _span(layer.spread.low, layer.spread.high)
        table.add(*row)
    return table


def _span(low: float, high: float) -> str:
    return f"[{low:.4g}, {high:.4g}]"


def _layers(found: Comparison) -> Fitted:
    shown = found.worst(SHOWN)
    title = f"the {len(shown)} layers of {len(found.layers)} that lose the most by themselves, worst first"
    columns = [
        Column("layer"),
        Column("operation", 1, folds=True),
        Column("module", 3, folds=True),
        Column("source", 2),
        *numbers("local dB", "cumulative dB", "clipped"),
        *numbers("saturated", rank=4),
    ]
    table = Fitted(title, columns)
    for layer in shown:
        table.add(*_row(layer))
    return table


def _origins(found: Comparison) -> Fitted:
    """Of the same layers what their own error is made of."""
    columns = [Column("layer"), Column("mostly"), *numbers("weights", "operands", "rounding", "clipping", rank=2)]
    title = "what their own errors are made of, each alone in dB"
    table = Fitted(title, [*columns, Column("stands out", 1, folds=True)])
    for layer in found.worst(SHOWN):
        parts = layer.parts
        shares = (parts.weights, parts.operands, parts.rounding, parts.clipping)
        told = ["" if db is None or db >= EXACT_DB else f"{db:.1f}" for db in shares]
        table.add(layer.name, parts.worst, *told, str(layer.outlier or ""))
    return table


def _row(layer: Layer) -> list[str]:
    place = layer.source.partition(" ")[0].rpartition("/")[2]
    text = [layer.name, layer.operation.removeprefix("fxq."), layer.module, place]
    share = f"{layer.saturated / layer.count:.3%}"
    return [*text, f"{layer.local_db:.1f}", f"{layer.cumulative_db:.1f}", f"{layer.clipped:.3%}", share]


def _whole(found: Comparison) -> Table:
    rows = [("output SQNR", ", ".join(f"{db:.1f} dB" for db in found.output_db))]
    if found.agreement is not None:
        rows.append((found.agreement_told, f"{found.agreement:.2%}"))
    return facts(f"over {found.samples} samples", rows)


def recovery(found: Recovery) -> Table:
    """What a search found."""
    rows = [("measured by", found.measure), ("goal", f"{found.goal:g}"), ("all in integers", f"{found.before:.4g}")]
    if found.outside:
        rows.append(("outside of the calibrated range", ", ".join(found.outside)))
        rows.append(("calibrated on this data, too", f"{found.recalibrated:.4g}"))
    if found.is_calibration:
        rows.append(("needed", "calibration on data like this, and no layer in float"))
    elif not found.layers:
        rows.append(("needed", "nothing"))
    else:
        rows += [("layers", ", ".join(found.layers)), ("rules keep_float", ", ".join(found.keep_float))]
        rows.append(("with these in float", f"{found.after:.4g}{'' if found.is_reached else ', still short of it'}"))
    return facts("left in float, to reach the goal", [*rows, ("quantizations tried", str(found.tried))])
