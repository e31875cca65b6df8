"""Compiling from the shell for machines without a runtime: a folder of C."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from fxquant.commands import graphs
from fxquant.commands.graphs import Wish
from fxquant.commands.output import emit, plain, show, table, written
from fxquant.progress import working

if TYPE_CHECKING:
    from fxquant.target import Target

_FACTS = (
    "target",
    "form",
    "flash_bytes",
    "code_bytes",
    "constant_bytes",
    "arena_bytes",
    "stack_bytes",
    "macs",
    "instructions",
    "kernels",
)


@dataclass(frozen=True)
class Standalone:
    """What is asked for: see `fxquant.export`."""

    target: Target
    out: Path
    name: str
    emit: Literal["library", "c"]
    fits: str | None
    measure: bool
    tune: bool


def exported(wish: Wish, wanted: Standalone, as_json: bool) -> None:
    """Quantize if need be, export, and tell what it takes."""
    from fxquant import export

    written(wanted.out)
    graph = graphs.quantized(wish)
    # The search has a bar of its own.
    with working(f"compiling for {wanted.target.name}", show=not wanted.tune):
        made = export(
            graph,
            wanted.target,
            wanted.out,
            name=wanted.name,
            emit=wanted.emit,
            fits=wanted.fits,
            measure=wanted.measure,
            tune=wanted.tune,
        )
    report = made.report
    if as_json:
        emit({"output": str(wanted.out), "files": sorted(made.files), **report})
        return
    show(
        table(
            "layers",
            ("layer", "kernel", "MACs", "constants", "arena", *(["instructions"] if wanted.measure else [])),
            [_row(layer, wanted.measure) for layer in report["layers"]],
        )
    )
    if slow := _in_plain_loops(report["layers"]):
        show(table("in plain loops", ("layer", "kernel", "why not"), slow))
    facts = [(name, "not measured" if report[name] is None else plain(report[name])) for name in _FACTS]
    show(table(str(wanted.out), ("what", ""), [("files", ", ".join(sorted(made.files))), *facts]))


def _in_plain_loops(layers: list[dict[str, Any]]) -> list[tuple[str, str, str]]:
    """Layers for which faster kernels were asked, which declined."""
    slow = [layer for layer in layers if layer["kernel"] == "plain"]
    return [(layer["name"], kernel["kernel"], kernel["reason"]) for layer in slow for kernel in layer["declined"]]


def _row(layer: dict[str, Any], is_measured: bool) -> tuple[str, ...]:
    numbers = (layer["macs"], layer["constant_bytes"], layer["arena_bytes"], layer["instructions"])
    shown = numbers if is_measured else numbers[:3]
    return (layer["name"], layer["kernel"], *("–" if n is None else f"{n:,}" for n in shown))
