"""Results of the benchmark as tables for a terminal."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from rich.markup import escape
from rich.table import Table

from fxquant.tools.shown import titled

_MIB = 1 << 20


def tables(results: Mapping[str, Any]) -> Iterator[Table | str]:
    """The machine, then what was measured of each network, then the means."""
    yield heading(results["machine"])
    yield from measured(results)
    yield from means(results.get("summary", {}))


def heading(machine: Mapping[str, Any]) -> str:
    """Where it was measured."""
    versions = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    features = ", ".join(machine["features"])
    return f"{machine['cpu']}, {machine['cores']} cores, {features}; load {machine['load']}; {versions}"


def measured(results: Mapping[str, Any]) -> Iterator[Table | str]:
    """Comparisons, costs and profiles: of all networks, or of one."""
    for found in results["networks"]:
        yield from _comparison(found)
    for found in results["costs"]:
        yield _cost(found)
    for found in results["profiles"]:
        yield _profile(found)


def means(summary: Mapping[str, Any]) -> Iterator[str]:
    """Geometric means, where there are several networks."""
    for count, found in summary.items():
        if len(found["networks"]) > 1:
            yield (
                f"{count} thread{'s' * (count != '1')}: the best other takes {found['geometric_mean']:.2f} times as "
                f"long, geometric mean of {len(found['networks'])} networks"
            )


def markdown(results: Mapping[str, Any]) -> str:
    """A row for each network and number of threads: how many times as long as fxquant every peer takes, and its median.

    The ratios are medians of the rounds; a last column has the best of the others.
    """
    networks = [found for found in results["networks"] if found["times"]]
    titles = {name: peer["title"] for found in networks for name, peer in found["peers"].items()}
    lines = [["network, threads", *titles.values(), "best other"], ["---"] * (len(titles) + 2)]
    for found in networks:
        for count, times in found["times"].items():
            cells = [times.get(name, {}) for name in titles]
            shown = (f"{cell['ratio']:.2f} ({cell['median_ms']:.2f} ms)" if cell else "–" for cell in cells)
            others = [cell["ratio"] for name, cell in times.items() if not name.startswith("fxquant")]
            lines.append([f"{found['name']}, {count}", *shown, f"{min(others):.2f}" if others else "–"])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def markdown_best(results: Mapping[str, Any]) -> str:
    """A row for each network: fxquant's median, and how many times as long the best of all others takes, and which."""
    networks = [found for found in results["networks"] if found["times"]]
    counts = list(networks[0]["times"]) if networks else []
    titles = [title for count in counts for title in (f"fxquant, {count} thr.", "best other")]
    lines = [["network", *titles], ["---"] * (len(titles) + 1)]
    for found in networks:
        cells: list[str] = []
        for times in found["times"].values():
            own = times.get("fxquant", {})
            others = {name: cell["ratio"] for name, cell in times.items() if not name.startswith("fxquant")}
            best = min(others, key=others.__getitem__, default="")
            cells.append(f"{own['median_ms']:.2f} ms" if own else "–")
            cells.append(f"{others[best]:.2f} ({found['peers'][best]['title']})" if best else "–")
        lines.append([found["name"], *cells])
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _comparison(found: Mapping[str, Any]) -> Iterator[Table | str]:
    shapes = ", ".join("x".join(map(str, shape)) for shape in found["inputs"])
    table = titled(f"{found['name']}: {shapes}, {found['parameters'] / 1e6:.2f} M parameters")
    table.add_column("", no_wrap=True)
    for count in found["times"]:
        for name in (f"ms, {count} thr.", "best", "x fxquant", "best"):
            table.add_column(name, justify="right", no_wrap=True)
    for name in ("SQNR dB", "file MiB", "serving MiB"):
        table.add_column(name, justify="right", no_wrap=True)
    for name, peer in found["peers"].items():
        cells: list[str] = []
        for times in found["times"].values():
            cells += _times(times[name])
        sizes = (f"{peer['artifact_bytes'] / _MIB:.2f}", f"{peer['serving_bytes'] / _MIB:.0f}")
        table.add_row(peer["title"], *cells, f"{peer['sqnr_db']:.1f}", *sizes)
    yield table
    if found["peers"].get("fxquant", {}).get("exact") is False:
        yield "[red]fxquant: the compiled outputs differ from those of the integer graph in Python"
    for what in ("missing", "failed"):
        for name, reason in found[what].items():
            yield escape(f"{name} {what}: {reason}")


def _times(times: Mapping[str, float]) -> tuple[str, ...]:
    ratios = (f"{times[key]:.2f}" if key in times else "" for key in ("ratio", "best_ratio"))
    return (f"{times['median_ms']:.3f}", f"{times['best_ms']:.3f}", *ratios)


def _cost(found: Mapping[str, Any]) -> Table:
    table = titled(
        f"{found['name']}: seconds with {found['calibration_samples']} calibration samples, "
        f"peak memory {found['peak_bytes'] / _MIB:.0f} MiB"
    )
    steps = ("import", "trace", "prepare", "calibrate", "observe", "convert", "quantize", "compile", "again")
    table.add_column("clock")
    for step in steps:
        table.add_column(step, justify="right")
    for clock in ("wall", "cpu"):
        table.add_row(clock, *(f"{found[f'{clock}_seconds'][step]:.2f}" for step in steps))
    return table


def _profile(found: Mapping[str, Any]) -> Table:
    threads, layers = found["threads"], sorted(found["layers"], key=lambda layer: -layer["median"])
    total = sum(layer["median"] for layer in layers)
    macs = sum(layer["macs"] for layer in layers)
    table = titled(
        f"{found['name']}: {threads} thread{'s' * (threads > 1)}, {found['median'] / 1e3:.3f} ms "
        f"(best {found['best'] / 1e3:.3f}), {macs / 1e6:.0f} M MACs, {2e-3 * macs / found['best']:.0f} GOPS; "
        f"ceiling of plain products {found['ceiling']:.0f} GOPS"
    )
    for name in ("layer", "kernel", "shape"):
        table.add_column(name, no_wrap=True)
    for name in ("tasks", "M MACs", "us", "best", "%", "sum %", "GOPS", "% of ceiling"):
        table.add_column(name, justify="right", no_wrap=True)
    spent = 0.0
    for layer in layers:
        spent += layer["median"]
        shares = (f"{100 * layer['median'] / total:.1f}", f"{100 * spent / total:.1f}")
        times = (f"{layer['median']:.1f}", f"{layer['best']:.1f}")
        what = (layer["name"], layer["symbol"], layer["shape"], str(layer["tasks"]))
        table.add_row(*what, f"{layer['macs'] / 1e6:.2f}", *times, *shares, *_rate(layer))
    return table


def _rate(layer: Mapping[str, Any]) -> tuple[str, str]:
    """GOPS and their share of the ceiling, for layers of which the multiply-accumulates are known."""
    return ("", "") if layer["share"] is None else (f"{layer['gops']:.0f}", f"{100 * layer['share']:.0f}")
