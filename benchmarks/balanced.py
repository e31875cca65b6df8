"""What `effort="balanced"` costs when a network runs, and what it gains: time and SQNR beside those of 8 bits.

    python benchmarks/balanced.py                              the networks that the bench compares with peers
    python benchmarks/balanced.py mobilenet_v3_small resnet18  some of tests/zoo
    python benchmarks/balanced.py --json found.json            the same, kept after every network

Both are compiled for this machine and timed in turn, one sample by one thread at the network's published size: the
times printed are the fastest. SQNR is that of the outputs on inputs that calibration has not seen. Which values have
16 bits, what each gains and costs by the model of `fxquant.tools.widths`, is said below the table. The status is 1
where balanced takes more than MOST of the time of 8 bits.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
import warnings
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import torch
from torch import Tensor, fx, nn

sys.path.insert(0, str(Path(__file__).parent.parent))

import fxquant
from fxquant import targets
from fxquant.atomic import write_file
from fxquant.gains import decibels, gains_of
from tests import zoo

NETWORKS = ("mobilenet_v3_small", "mobilenet_v2", "resnet18", "shufflenet_v2", "vit_tiny", "bert_embedded")
# What balanced may take, as a multiple of the time of 8 bits.
MOST = 1.1
CALIBRATION, BATCH, FRESH = 32, 4, 8


@dataclass(frozen=True)
class Row:
    """Milliseconds and SQNR in dB, of 8 bits and of balanced; what the widening pass said."""

    network: str
    ms: tuple[float, float]
    db: tuple[float, float]
    told: str

    @property
    def ratio(self) -> float:
        """How much longer balanced takes."""
        return self.ms[1] / self.ms[0]

    def markdown(self) -> str:
        """A line of the table."""
        times = " | ".join(f"{ms:.2f}" for ms in self.ms)
        return f"| {self.network} | {times} | {self.ratio:.3f} | {self.db[0]:.1f} | {self.db[1] - self.db[0]:+.1f} |"


HEADER = "| network | 8 bits, ms | balanced, ms | ratio | 8 bits, dB | gain, dB |\n|---|---|---|---|---|---|"


def measure(name: str, rounds: int) -> Row:
    """Quantize a network of the zoo in both ways, compile, and time them in turn."""
    model, inputs = zoo.build(name), zoo.inputs(name, CALIBRATION, seed=1, small=False)
    graph = fxquant.trace(model, tuple(x[:2] for x in inputs))
    parts = [tuple(x[at : at + BATCH] for x in inputs) for at in range(0, CALIBRATION, BATCH)]
    recipe = targets.get("native").recipe
    fast, better = (
        fxquant.quantize(graph, parts, recipe=recipe, effort=effort, progress=False) for effort in ("fast", "balanced")
    )
    fresh = zoo.inputs(name, FRESH, seed=2, small=False)
    told = next((gain.note for gain in gains_of(better) if gain.step == "WidenValues"), "")
    db = _sqnr(fast, model, fresh), _sqnr(better, model, fresh)
    return Row(name, _times((fast, better), fresh, rounds), db, told)


@torch.no_grad()
def _sqnr(quantized: fx.GraphModule, model: nn.Module, inputs: Sequence[Tensor]) -> float:
    real, found = (function(*inputs).double() for function in (model, quantized))
    return decibels(float(real.square().sum()), float((real - found).square().sum()))


def _times(graphs: Sequence[fx.GraphModule], inputs: Sequence[Tensor], rounds: int) -> tuple[float, float]:
    """The fastest run of each in milliseconds."""
    sample = [x[:1].numpy() for x in inputs]
    nets = [fxquant.compile(graph, "native", threads=1, against_float=False) for graph in graphs]
    best = [float("inf")] * len(nets)
    for _ in range(rounds):
        for place, net in enumerate(nets):
            started = time.perf_counter()
            net(*sample)
            best[place] = min(best[place], 1e3 * (time.perf_counter() - started))
    return best[0], best[1]


def main() -> int:
    """Print a line for each network; 1 where one takes too long."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("networks", nargs="*", default=list(NETWORKS), help="names in tests/zoo")
    parser.add_argument("--rounds", type=int, default=60, help="runs of each (60)")
    parser.add_argument("--json", type=Path, help="also keep what is found in this file")
    given = parser.parse_args()
    unknown = [name for name in given.networks if name not in zoo.ZOO]
    if unknown:
        print(f"no network called {', '.join(unknown)}; there are: {', '.join(zoo.ZOO)}", file=sys.stderr)
        return 2
    warnings.simplefilter("ignore", UserWarning)
    print(HEADER, flush=True)
    rows = []
    for name in given.networks:
        rows.append(measure(name, given.rounds))
        print(rows[-1].markdown(), flush=True)
        if given.json is not None:
            write_file(given.json, json.dumps([asdict(row) for row in rows], indent=1).encode())
    print("\n" + "\n".join(f"{row.network}: {row.told}" for row in rows))
    return 1 if any(row.ratio > MOST for row in rows) else 0


if __name__ == "__main__":
    sys.exit(main())
