"""What fxquant itself costs: seconds and memory from the model to machine code, and the profile of what comes out."""

from __future__ import annotations

import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from fxquant.tools.bench.machine import forget_peak, peak_bytes
from fxquant.tools.bench.networks import Network
from fxquant.tools.bench.remote import Remote

if TYPE_CHECKING:
    from torch import fx


class Factory:
    """Builds one network in a process of its own, watching the clocks."""

    def __init__(self, network: Network, calibration: int) -> None:
        import torch

        import fxquant.targets.compiler  # noqa: F401  TVM is imported before the clocks start

        torch.set_num_threads(1)
        self.network, self.model = network, network.build()
        self.samples = network.calibration(calibration)
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        forget_peak()

    def cost(self) -> dict[str, Any]:
        """Wall and CPU seconds of each step, on one thread, and the peak of memory.

        `quantize` is trace to INTEGER without what the calibration's forward passes take in float; `forward` is that.
        """
        import fxquant

        quantized = self._quantize()
        with self._timed("compile"):
            net = fxquant.compile(quantized, name=self.network.name, threads=1)
        net.close()
        peak = peak_bytes()
        steps = ("trace", "prepare", "calibrate", "convert")
        for clock in (self.wall, self.cpu):
            clock["quantize"] = sum(clock[step] for step in steps) - clock["forward"]
        return {
            "calibration_samples": len(self.samples),
            "wall_seconds": self.wall,
            "cpu_seconds": self.cpu,
            "peak_bytes": peak,
        }

    def profile(self, threads: int, rounds: int) -> dict[str, Any]:
        """Time per layer on the first calibration sample."""
        from fxquant.targets.profile import profile

        found = profile(self._quantize(), self.samples[0], threads=threads, rounds=rounds)
        return {"name": self.network.name, **found.to_json()}

    def _quantize(self) -> fx.GraphModule:
        import torch

        import fxquant

        with self._timed("trace"):
            graph = fxquant.trace(self.model, self.samples[0])
        with self._timed("forward"), torch.no_grad():
            for sample in self.samples:
                graph(*sample)
        with self._timed("prepare"):
            observed = fxquant.prepare(graph)
        with self._timed("calibrate"):
            fxquant.calibrate(observed, self.samples, progress=False)
        with self._timed("convert"):
            return fxquant.convert(observed)

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[step], self.cpu[step] = time.perf_counter() - wall, time.process_time() - cpu


def measure_cost(network: Network, calibration: int = 100) -> dict[str, Any]:
    """`Factory.cost` in a new process, whose peak of memory is that of this work alone."""
    with Remote(Factory, network, calibration) as factory:
        return {"name": network.name, **factory.call("cost")}


def measure_profile(network: Network, threads: int, rounds: int, calibration: int = 4) -> dict[str, Any]:
    """`Factory.profile` in a new process."""
    with Remote(Factory, network, calibration) as factory:
        found: dict[str, Any] = factory.call("profile", threads, rounds)
        return found
