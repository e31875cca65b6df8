"""The whole road for one architecture, step by step, each step's findings told as soon as they are known."""

from __future__ import annotations

import os
import time
import warnings
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx

import fxquant
from benchmarks.foreign.architecture import Architecture, Input, call
from benchmarks.foreign.ideal import Ideal
from fxquant import targets
from fxquant.calibration import arrange
from fxquant.errors import FxquantError
from fxquant.gains import decibels
from fxquant.runtime.model import CompiledModel
from fxquant.tools.fidelity import flat
from fxquant.tools.speed import measure_speed

Tell = Callable[[dict[str, Any]], None]

INPUTS = 4
# Float and ours take turns so often; the best of each counts.
ROUNDS = 7


class Judge:
    """Carries one architecture along the road; `tell` gets what is known, as fields of a Row."""

    def __init__(self, architecture: Architecture, tell: Tell, until: str = "done", inputs: int = INPUTS) -> None:
        self.architecture, self.tell, self.until, self.count = architecture, tell, until, inputs
        self.seconds: dict[str, float] = {}

    def judge(self) -> None:
        """All steps, up to the one that fails or `until`."""
        steps = {
            "build": self._build,
            "trace": self._trace,
            "quantize": self._quantize,
            "look": self._look,
            "compile": self._compile,
            "run": self._run,
        }
        for stage, step in steps.items():
            self.tell({"stage": stage})
            if stage == self.until:
                return
            try:
                with self._timed(stage), warnings.catch_warnings():
                    warnings.simplefilter("ignore")
                    found = step()
            except Exception as error:  # whatever it is, it is what the sweep is to find
                told = f"{type(error).__name__}: {error}"
                self.tell({"error": told, "refused": isinstance(error, FxquantError), "seconds": self.seconds})
                return
            self.tell({**found, "seconds": self.seconds})
        self.tell({"stage": "done"})

    @contextmanager
    def _timed(self, step: str) -> Iterator[None]:
        started = _cpu()
        try:
            yield
        finally:
            self.seconds[step] = self.seconds.get(step, 0.0) + round(_cpu() - started, 2)

    def _build(self) -> dict[str, Any]:
        self.model, self.inputs = self.architecture.build(self.count)
        with torch.no_grad():
            call(self.model, self.inputs[0])
        return {"parameters": sum(p.numel() for p in self.model.parameters())}

    def _trace(self) -> dict[str, Any]:
        self.graph = fxquant.trace(self.model, self.inputs[0])
        return {"operations": _calls(self.graph), "batch": str(self.graph.meta["fxq.batch"])}

    def _quantize(self) -> dict[str, Any]:
        self.observed = fxquant.prepare(self.graph)
        fxquant.calibrate(self.observed, self.inputs, progress=False)
        self.quantized = fxquant.convert(self.observed)
        return {}

    def _look(self) -> dict[str, Any]:
        report = fxquant.report(self.quantized)
        self.python = self._ran(self.quantized)
        real = self._ran(self.graph)
        sqnr, ideal = _furthest(real, self.python, self._ran(Ideal(self.observed).run))
        return {
            "off": _off(real[0], _leaves(self._called(self.inputs[0]))),
            "islands": dict(Counter(f"{x.operation}: {x.reason}" for x in report.floats)),
            "macs": report.macs,
            "integer_share": 1.0 - report.float_macs / report.macs if report.macs else float(not report.floats),
            "sqnr": sqnr,
            "ideal": ideal,
        }

    def _compile(self) -> dict[str, Any]:
        self.artifact = fxquant.api.compile_artifact(self.quantized, "native", "model", progress=False)
        return {}

    def _run(self) -> dict[str, Any]:
        with CompiledModel(self.artifact, 1) as net:
            compiled = self._ran(net)
            differs = max(map(_difference, _columns(self.python), _columns(compiled)), default=0.0)
            ours, real = _race(lambda: net(*self._arranged(0)), lambda: self._called(self.inputs[0]))
        found = {"differs": differs, "speed": real / ours}
        if ours > real:
            speed = measure_speed(self.quantized, self.artifact, targets.get("native"))
            found["warned"] = speed is not None and speed.is_slower
        return found

    def _called(self, given: Input) -> Any:
        with torch.no_grad():
            return call(self.model, given)

    def _arranged(self, number: int) -> list[Tensor]:
        return arrange(self.quantized, self.inputs[number], f"input {number}")

    def _ran(self, run: Callable[..., Any]) -> list[list[Tensor]]:
        """Outputs for every input."""
        with torch.no_grad():
            return [flat(run(*arrange(self.graph, given, "input"))) for given in self.inputs]


def _cpu() -> float:
    times = os.times()
    return times.user + times.system + times.children_user + times.children_system


def _calls(graph: fx.GraphModule) -> int:
    return sum(node.op == "call_function" for node in graph.graph.nodes)


def _leaves(result: Any) -> list[Tensor]:
    return [leaf for leaf in torch.utils._pytree.tree_leaves(result) if isinstance(leaf, Tensor)]


def _columns(rows: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    """By output what was by input."""
    return [list(column) for column in zip(*rows, strict=True)]


def _off(traced: Sequence[Tensor], model: Sequence[Tensor]) -> float:
    """The largest difference of the traced graph to the model, as a share of an output's range."""
    if len(traced) != len(model):
        return 1.0
    return max((_difference([a], [b]) for a, b in zip(model, traced, strict=True)), default=0.0)


def _difference(expected: Sequence[Tensor], got: Sequence[Tensor]) -> float:
    """The largest one, as a share of the range of what was expected; 1 for other shapes."""
    if any(a.shape != b.shape for a, b in zip(expected, got, strict=True)):
        return 1.0
    pairs = [(a.double(), b.double()) for a, b in zip(expected, got, strict=True)]
    if all(torch.equal(a, b) or bool((a.isnan() & b.isnan() | (a == b)).all()) for a, b in pairs):
        return 0.0
    largest = max(float((a - b).abs().nan_to_num(nan=float("inf")).max()) for a, b in pairs)
    width = max(float(a.abs().max()) for a, _ in pairs)
    return min(largest / width if width else 1.0, 1.0)


def _furthest(
    real: Sequence[Sequence[Tensor]], found: Sequence[Sequence[Tensor]], ideal: Sequence[Sequence[Tensor]]
) -> tuple[float | None, float | None]:
    """SQNR in dB, ours and ideal, of the output that is furthest below the ideal."""
    several = []
    for wanted, ours, simulated in zip(_columns(real), _columns(found), _columns(ideal), strict=True):
        if wanted[0].is_floating_point():
            several.append((_db(wanted, ours), _db(wanted, simulated)))
    return min(several, key=lambda pair: pair[0] - pair[1]) if several else (None, None)


def _db(real: Sequence[Tensor], found: Sequence[Tensor]) -> float:
    signal = sum(float(x.double().square().sum()) for x in real)
    noise = sum(float((x.double() - y.double()).square().sum()) for x, y in zip(real, found, strict=True))
    return decibels(signal, noise)


def _race(ours: Callable[[], Any], real: Callable[[], Any]) -> tuple[float, float]:
    """Seconds of the best run of each, in turns, with one thread."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        times = [[_seconds(run) for run in (ours, real)] for _ in range(ROUNDS)]
    finally:
        torch.set_num_threads(threads)
    best = [min(column) for column in zip(*times, strict=True)]
    return best[0], best[1]


def _seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started
