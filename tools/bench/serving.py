"""The process that is measured: one peer, loaded, run when it is asked to."""

from __future__ import annotations

import gc
import math
import statistics
import time
from collections import defaultdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fxquant.tools.bench.machine import resident_bytes
from fxquant.tools.bench.networks import Network
from fxquant.tools.bench.peers import Peer
from fxquant.tools.bench.preparing import SAMPLES

if TYPE_CHECKING:
    from fxquant.tools.bench.peers import Arrays

# Before it is timed, a peer runs this long: its own caches are warm then.
WARM_SECONDS = 0.004
# Short runs are repeated, and their median taken, until a turn has lasted about this long.
TURN_SECONDS = 0.004
MOST_CALLS = 50
# A signal over noise that is reported for equal outputs.
EXACT_DB = 200.0


class Server:
    """A peer with the network's samples."""

    def __init__(self, peer: Peer, network: Network, folder: str, threads: int) -> None:
        root = Path(folder)
        self.runner = peer.load(root / peer.name, network, threads)
        self.inputs, self.outputs = _samples(root / SAMPLES)
        started = time.perf_counter()
        self.runner(self.inputs[0])
        self.runner(self.inputs[0])
        self.calls = max(1, min(MOST_CALLS, int(2 * TURN_SECONDS / (time.perf_counter() - started))))
        gc.collect()
        gc.disable()

    def turn(self) -> float:
        """Seconds of one run: the median, where short runs are repeated."""
        runner, sample = self.runner, self.inputs[0]
        until = time.perf_counter() + WARM_SECONDS
        runner(sample)
        while time.perf_counter() < until:
            runner(sample)
        return statistics.median(self._seconds() for _ in range(self.calls))

    def facts(self) -> dict[str, Any]:
        """Resident memory, and how far the outputs are from those of the float model, in dB over all samples."""
        memory = resident_bytes()
        signal = noise = 0.0
        for inputs, expected in zip(self.inputs, self.outputs, strict=True):
            for real, got in zip(expected, self.runner(inputs), strict=True):
                signal += float(np.square(real, dtype=np.float64).sum())
                noise += float(np.square(real.astype(np.float64) - got).sum())
        return {"serving_bytes": memory, "sqnr_db": decibels(signal, noise)}

    def _seconds(self) -> float:
        sample = self.inputs[0]
        started = time.perf_counter()
        self.runner(sample)
        return time.perf_counter() - started


def decibels(signal: float, noise: float) -> float:
    """10 log10(signal / noise), at most EXACT_DB and at least its negative; NaN counts as nothing but noise."""
    if noise == 0.0:
        return EXACT_DB
    if not (math.isfinite(noise) and signal > 0.0):
        return -EXACT_DB
    return max(-EXACT_DB, min(EXACT_DB, 10 * math.log10(signal / noise)))


def _samples(path: Path) -> tuple[list[Arrays], list[Arrays]]:
    """Inputs and expected outputs, by sample."""
    found: dict[str, dict[int, Arrays]] = {"input": defaultdict(list), "output": defaultdict(list)}
    with np.load(path, allow_pickle=False) as file:
        for name in file.files:
            side, number, _ = name.split("_")
            found[side][int(number)].append(file[name])
    inputs, outputs = ([arrays for _, arrays in sorted(found[side].items())] for side in ("input", "output"))
    return inputs, outputs
