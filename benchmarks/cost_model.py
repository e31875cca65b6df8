"""How far is the cost model from the best that a search finds? Networks compiled both ways, run in turn on one thread.

python benchmarks/cost_model.py                  ResNet-18, ResNet-50, MobileNetV2, a minute or two each
python benchmarks/cost_model.py unet --minutes 5
"""

from __future__ import annotations

import argparse
import statistics
import time
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from rich.console import Console
from rich.table import Table

import fxquant
from fxquant.tools.bench.networks import network

ROUNDS = 60


def main() -> None:
    """Tune each network into a fresh database, and compare."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=["resnet18", "resnet50", "mobilenet_v2"])
    parser.add_argument("--minutes", type=float, default=4.0, help="for each network, at most")
    wanted = parser.parse_args()
    table = Table("network", "cost model, ms", "after a search, ms", "times as fast", "search, s")
    for name in wanted.networks:
        table.add_row(name, *compared(name, wanted.minutes))
    Console().print(table)


def compared(name: str, minutes: float) -> tuple[str, ...]:
    """Medians, the median of the ratios, and how long the search took."""
    found = network(name)
    sample = found.evaluation(1)[0]
    graph = fxquant.trace(found.build(), sample)
    quantized = fxquant.quantize(graph, found.calibration(4), recipe="native", progress=False)
    with TemporaryDirectory() as folder:
        started = time.perf_counter()
        tuned = fxquant.compile(quantized, threads=1, tune=minutes, tiles=Path(folder) / "tiles.json")
        spent = time.perf_counter() - started
    arrays = [tensor.numpy() for tensor in sample]
    with tuned, fxquant.compile(quantized, threads=1) as modelled:
        times = [(seconds(modelled, arrays), seconds(tuned, arrays)) for _ in range(ROUNDS)]
    ratio = statistics.median(before / after for before, after in times)
    medians = (1e3 * statistics.median(column) for column in zip(*times, strict=True))
    return (*(f"{median:.3f}" for median in medians), f"{ratio:.3f}", f"{spent:.0f}")


def seconds(net: fxquant.CompiledModel, arrays: list[Any]) -> float:
    """Of one run, after one that warms the caches."""
    net(*arrays)
    started = time.perf_counter()
    net(*arrays)
    return time.perf_counter() - started


if __name__ == "__main__":
    main()
