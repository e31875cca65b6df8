"""What fxquant itself costs: seconds and memory from the model to machine code, and the profile of what comes out."""

from __future__ import annotations

import os
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING, Any

from fxquant.tools.bench.machine import forget_peak, peak_bytes
from fxquant.tools.bench.networks import Network
from fxquant.tools.bench.remote import Remote

if TYPE_CHECKING:
    from torch import fx

_RECIPE = "native"  # the one that the comparison's first column is made with


class Factory:
    """Builds one network in a process of its own, watching the clocks."""

    def __init__(self, network: Network, calibration: int) -> None:
        self.wall: dict[str, float] = {}
        self.cpu: dict[str, float] = {}
        with self._timed("import"):
            _import()
        import torch

        torch.set_num_threads(1)
        self.network, self.model = network, network.build()
        self.samples = network.calibration(calibration)
        forget_peak()

    def cost(self) -> dict[str, Any]:
        """Wall and CPU seconds of each step, on one thread, and the peak of memory.

        `observe` is the part of `calibrate` that the observers take, and `quantize` is trace to INTEGER with that part
        only: without the calibration's forward passes, which any quantizer has to make. `again` is a second `compile`,
        which finds the first one's code in the cache. `import` is what any process pays once for loading torch, its
        exporter and TVM, and is in no other column.
        """
        import fxquant

        quantized = self._quantize()
        with tempfile.TemporaryDirectory() as folder:
            # Nothing is known at first, whatever the user's cache holds; then the very same again.
            os.environ["FXQUANT_CACHE"] = folder
            for step in ("compile", "again"):
                with self._timed(step):
                    fxquant.compile(quantized, name=self.network.name, threads=1).close()
        peak = peak_bytes()
        for clock in (self.wall, self.cpu):
            clock["quantize"] = sum(clock[step] for step in ("trace", "prepare", "observe", "convert"))
        return {
            "calibration_samples": len(self.samples),
            "wall_seconds": self.wall,
            "cpu_seconds": self.cpu,
            "peak_bytes": peak,
        }

    def profiles(self, threads: Sequence[int], rounds: int) -> list[dict[str, Any]]:
        """Time per layer on the first calibration sample, for each number of threads."""
        from fxquant.targets.hosted.profile import profile

        quantized = self._quantize()
        found = [profile(quantized, self.samples[0], threads=count, rounds=rounds) for count in threads]
        return [{"name": self.network.title, **layers.to_json()} for layers in found]

    def _quantize(self) -> fx.GraphModule:
        import fxquant

        with self._timed("trace"):
            graph = fxquant.trace(self.model, self.samples[0])
        with self._timed("prepare"):
            observed = fxquant.prepare(graph, _RECIPE)
        with self._timed("calibrate"), self._watched(observed):
            fxquant.calibrate(observed, self.samples, progress=False)
        with self._timed("convert"):
            return fxquant.convert(observed)

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        wall, cpu = time.perf_counter(), time.process_time()
        yield
        self.wall[step] = self.wall.get(step, 0.0) + time.perf_counter() - wall
        self.cpu[step] = self.cpu.get(step, 0.0) + time.process_time() - cpu

    @contextmanager
    def _watched(self, observed: fx.GraphModule) -> Iterator[None]:
        """Count the time that is spent in observers as the step "observe"."""
        from fxquant.observers import observers_of

        clock = ExitStack()
        handles = []
        for _, observer in observers_of(observed):
            handles.append(observer.register_forward_pre_hook(lambda *_: clock.enter_context(self._timed("observe"))))
            handles.append(observer.register_forward_hook(lambda *_: clock.close()))
        yield
        for handle in handles:
            handle.remove()


def _import() -> None:
    """Load all that is loaded on first use: torch's exporter, for one, is imported by the first export."""
    import torch

    import fxquant.targets.hosted.compiler

    fxquant.trace(torch.nn.Identity(), torch.zeros(1, 1))


def measure_cost(network: Network, calibration: int = 100) -> dict[str, Any]:
    """`Factory.cost` in a new process, whose peak of memory is that of this work alone."""
    with Remote(Factory, network, calibration) as factory:
        return {"name": network.title, **factory.call("cost")}


def measure_profiles(
    network: Network, threads: Sequence[int], rounds: int, calibration: int = 4
) -> list[dict[str, Any]]:
    """`Factory.profiles` in a new process."""
    with Remote(Factory, network, calibration) as factory:
        found: list[dict[str, Any]] = factory.call("profiles", threads, rounds)
        return found
