"""`fxquant bench --target`: standalone code under emulation, counted in instructions; every run is held to Python's
integers. Counts are exact and repeat; nothing is timed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fxquant.errors import TargetError
from fxquant.progress import working
from fxquant.tools.bench.networks import Network
from fxquant.tools.shown import titled

if TYPE_CHECKING:
    from rich.table import Table

# The networks of MLPerf Tiny.
TINY = ("resnet8", "ds_cnn", "mobilenet_v1", "autoencoder")
_HEAD = ("network", "target", "MACs", "instructions", "per MAC", "flash", "arena", "stack")


def count(
    networks: Sequence[Network], names: Sequence[str], calibration: int, *, tune: bool = False
) -> list[dict[str, Any]]:
    """The measured report of every network for every target, its tiles searched if `tune`; see `fxquant.export`.

    Raises TargetError for an unknown target, a hosted one, and one without an emulator on this machine, before
    anything is quantized.
    """
    import fxquant
    from fxquant import targets
    from fxquant.targets.kernels.compact.tiling import first
    from fxquant.targets.standalone.export import standalone
    from fxquant.tools.emulate.measured import measured
    from fxquant.tools.emulate.programs import require
    from fxquant.tools.emulate.tune import tuned

    wanted = [targets.get(name) for name in names]
    for target in wanted:
        if target.form == "hosted":
            raise TargetError(f"{target.name} code is timed, not emulated: leave --target away")
        require(target)
    found = []
    for network in networks:
        samples = network.calibration(calibration)
        graph = fxquant.quantize(fxquant.trace(network.build(), samples[0]), samples, progress=False)
        plain = fxquant.integer_ports(graph)
        for target in wanted:
            pick = tuned(plain, target).pick if tune else first
            with working(f"{network.title} on {target.name}"):
                made = measured(standalone(plain, target, "net", pick=pick), plain, pick)
            found.append({**made.report, "name": network.title})
    return found


def tables(reports: Sequence[Mapping[str, Any]], layers: bool) -> Iterator[Table]:
    """One row per network and target; with `layers` also a table of each one's layers."""
    yield _table("instructions of one run, equal to Python's integers", _HEAD, map(_row, reports))
    for report in reports if layers else ():
        title = f"{report['name']} on {report['target']}"
        rows = [(x["name"], x["kernel"], *_numbers(x), *_memory(x)) for x in report["layers"]]
        yield _table(title, ("layer", "kernel", *_HEAD[2:5], "constants", "arena"), rows)


def markdown(reports: Sequence[Mapping[str, Any]]) -> str:
    """The first table as documentation shows it."""
    lines = [f"| {' | '.join(_HEAD)} |", f"|{'---|' * len(_HEAD)}"]
    return "\n".join([*lines, *(f"| {' | '.join(_row(report))} |" for report in reports)])


def _row(report: Mapping[str, Any]) -> tuple[str, ...]:
    memory = (report["flash_bytes"], report["arena_bytes"], report["stack_bytes"])
    return (report["name"], report["target"], *_numbers(report), *map(_number, memory))


def _numbers(found: Mapping[str, Any]) -> tuple[str, ...]:
    macs, instructions = found["macs"], found["instructions"]
    return _number(macs), _number(instructions), f"{instructions / macs:.2f}" if instructions and macs else "–"


def _memory(layer: Mapping[str, Any]) -> tuple[str, ...]:
    return _number(layer["constant_bytes"]), _number(layer["arena_bytes"])


def _number(value: int | None) -> str:
    return "–" if value is None else f"{value:,}"


def _table(title: str, head: Sequence[str], rows: Any) -> Table:
    from rich.markup import escape

    table = titled(title)
    for place, name in enumerate(head):
        table.add_column(name, justify="left" if place < 2 else "right", no_wrap=place != 1)
    for row in rows:
        table.add_row(*map(escape, row))
    return table
