"""The report as tables for a terminal."""

from __future__ import annotations

import re

from rich.console import RenderableType
from rich.table import Table

from fxquant.tools.report_records import NodeReport, Report
from fxquant.tools.shown import Column, Fitted, facts, numbers

_SHORT = {"int8": "s8", "uint8": "u8", "int16": "s16", "int32": "s32", "float32": "f32", "int64": "s64"}


def tables(found: Report) -> list[RenderableType]:
    """Nodes, reasons for ranges, which ranges were chosen, what stayed float, totals."""
    more = [*([_choices(found)] if found.choices else []), *([_floats(found)] if found.floats else [])]
    return [_nodes(found), _reasons(found), *more, _totals(found)]


def quantity(count: float, unit: str = "") -> str:
    """1234567 as '1.23 M'."""
    for limit, letter in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= limit:
            return f"{count / limit:.3g} {letter}{unit}"
    return f"{count:.3g} {unit}".rstrip()


def size(count: int) -> str:
    """Bytes as B, KiB or MiB."""
    for limit, unit in ((1 << 20, "MiB"), (1 << 10, "KiB")):
        if count >= limit:
            return f"{count / limit:.1f} {unit}"
    return f"{count} B"


def _nodes(found: Report) -> Fitted:
    measured = found.accuracy is not None
    columns = [
        Column("node"),
        Column("operation", folds=True),
        Column("value", 3),
        Column("range", 2),
        Column("weight", 5),
        Column("multiplier", 6, folds=True),
        *numbers("MACs", rank=4),
        *(numbers("SQNR dB", "alone dB") if measured else ()),
    ]
    table = Fitted("operations (accumulators stand in the row of the operation that rounds them)", columns)
    feeders: dict[str, list[NodeReport]] = {}
    for node in found.nodes:
        if node.feeds is not None:
            feeders.setdefault(node.feeds, []).append(node)
    for node in found.nodes:
        if node.feeds is None:
            group = [*feeders.get(node.name, ()), node]
            table.add(*_row(node, group, measured), style="yellow" if node.is_float else None)
    return table


def _row(node: NodeReport, group: list[NodeReport], measured: bool) -> list[str]:
    operations = " > ".join(member.primitive.removeprefix("fxq.") for member in group)
    weights = [_weight(member) for member in group if member.weight is not None]
    products = sum(member.macs for member in group)
    row = [
        node.name,
        operations,
        f"{_SHORT.get(node.dtype, node.dtype)}[{','.join(map(str, node.shape))}]",
        f"[{node.range.low:.4g}, {node.range.high:.4g}]" if node.range else "",
        ", ".join(weights),
        " + ".join(_factor(low, high) for low, high in node.multipliers),
        quantity(products) if products else "",
    ]
    return row + [_decibels(node.sqnr_db), _decibels(node.local_sqnr_db)] * measured


def _weight(node: NodeReport) -> str:
    assert node.weight is not None
    grain = "/channel" if node.weight.per_channel else ""
    return f"s{node.weight.bits}{grain} {size(node.weight.bytes)}"


def _few_bits(found: Report) -> str | None:
    """How many layers have weights of how many bits, and which keep 8; None where all have 8."""
    weights = {node.name: node.weight for node in found.nodes if node.weight is not None}
    counts: dict[int, list[int]] = {}
    for weight in weights.values():
        counts.setdefault(weight.bits, []).append(weight.bytes)
    told = [f"{bits}: {len(sizes)} layers, {size(sum(sizes))}" for bits, sizes in sorted(counts.items())]
    feeds = {node.name: node.feeds or node.name for node in found.nodes}
    kept = [f"{feeds[name]} ({weight.kept})" for name, weight in weights.items() if weight.kept]
    if min(counts, default=8) >= 8:
        return None
    return "; ".join(told) + (f"; these keep 8, a rule may ask for fewer: {', '.join(kept)}" if kept else "")


def _factor(low: float, high: float) -> str:
    return f"{low:.3g}" if low == high else f"{low:.3g}..{high:.3g}"


def _decibels(value: float | None) -> str:
    return "" if value is None else f"{value:.1f}"


def _reasons(found: Report) -> Fitted:
    columns = [
        Column("node"),
        Column("computes", 4),
        *numbers("scale", rank=2),
        *numbers("zero", rank=3),
        Column("because", folds=True),
        Column("source", 1),
    ]
    table = Fitted("ranges and their reasons", columns)
    for node in found.nodes:
        if node.range is not None and not node.is_float and not node.primitive.startswith("fxq.dequantize"):
            origin = ", ".join(node.layers) or node.origin
            parameters = f"{node.range.scale:.4g}", str(node.range.zero_point)
            table.add(node.name, origin, *parameters, node.range.reason, _file(node.source))
    return table


def _file(source: str, code: bool = False) -> str:
    """File name and line, without folders; with the line's text if `code`."""
    line = source.partition("\n")[0]
    found = re.match(r"(.*[/\\])?(?P<place>[^/\\]*?:\d+)(?P<text> .*)?$", line)
    if found is None:
        return line
    return found["place"] + (found["text"] or "") * code


def _choices(found: Report) -> Fitted:
    columns = [Column("layer"), Column("range"), *numbers("gain dB", rank=2), Column("because", folds=True)]
    table = Fitted("fixed ranges or such of run time, as data said", columns)
    for choice in found.choices:
        form = "of run time" if choice.dynamic else "fixed"
        table.add(choice.layer, form, f"{choice.gain:.1f}" if choice.gain else "", choice.reason)
    return table


def _floats(found: Report) -> Fitted:
    columns = [
        Column("node"),
        Column("operation", 2),
        Column("code", 2),
        Column("because", folds=True),
        Column("module", 3),
        Column("source", 1, folds=True),
    ]
    table = Fitted("what stayed float, and why", columns, style="yellow")
    for item in found.floats:
        kernel = "ours" if item.in_vectors else "TVM's"
        table.add(item.name, item.operation, kernel, item.reason, item.module, _file(item.source, code=True))
    return table


def _products(found: Report) -> str:
    text = f"{quantity(found.macs)}, of these in float: {quantity(found.float_macs)}"
    return f"{text}; not counted: {', '.join(found.uncounted)}" if found.uncounted else text


def _totals(found: Report) -> Table:
    ratio = found.float_weight_bytes / found.weight_bytes if found.weight_bytes else 1.0
    weights = f"{size(found.weight_bytes)}, in float {size(found.float_weight_bytes)} ({ratio:.2f} times as much)"
    count = f"{len(found.floats)} operation{'s' * (len(found.floats) > 1)}"
    rows = [
        ("inputs, outputs", f"{', '.join(found.inputs)} -> {', '.join(found.outputs)}"),
        ("batch", found.batch),
        ("multiply-accumulates", _products(found)),
        ("weights", weights),
        ("activations alive at once", size(found.activation_bytes)),
        ("stayed float", count if found.floats else "nothing between input and output"),
    ]
    if (few := _few_bits(found)) is not None:
        rows.append(("bits of weights", few))
    rows.extend(("for accuracy", str(gain)) for gain in found.gains)
    if found.lost:
        rows.append(("as good as lost", ", ".join(f"{name} uses {codes} codes" for name, codes in found.lost.items())))
    if found.accuracy is not None:
        noise = ", ".join(f"{db:.1f} dB" for db in found.accuracy.output_sqnr_db)
        rows.append(("output SQNR", f"{noise} over {found.accuracy.samples} samples"))
        if found.accuracy.agreement is not None:
            rows.append((found.accuracy.agreement_told, f"{found.accuracy.agreement:.2%}"))
    if not all(item.in_vectors for item in found.floats):
        rows.append(("compiled", "behind a float operation the compiled integers may differ by one step"))
    return facts("totals for one sample", rows)
