"""The demo: run the code of `fxquant.tools.digits` step by step, measure it, and leave it behind to copy."""

from __future__ import annotations

import inspect
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median
from time import perf_counter
from types import ModuleType
from typing import Any

import torch
from torch import Tensor, nn

import fxquant
from fxquant.errors import FxquantError
from fxquant.progress import track, working
from fxquant.tools.report_records import FloatReport
from fxquant.tools.report_table import size

SCRIPT, MODEL = "fxquant_digits.py", "fxquant_digits.fxq"
ROUNDS, CALLS = 15, 20


@dataclass(frozen=True)
class Demo:
    """What the demo found: accuracies on `held_out` images, latencies in seconds for one image on one thread."""

    held_out: int
    float_accuracy: float
    python_accuracy: float
    compiled_accuracy: float
    is_identical: bool
    float_seconds: float
    compiled_seconds: float
    float_bytes: int
    weight_bytes: int
    artifact_bytes: int
    floats: tuple[FloatReport, ...]
    target: str
    script: str
    model: str
    total_seconds: float

    def to_json(self) -> dict[str, Any]:
        """The findings as plain data."""
        return asdict(self)

    def __rich_console__(self, console: Any, options: Any) -> Iterator[Any]:
        from rich.box import SIMPLE_HEAD
        from rich.table import Table

        title = f"{self.held_out} held-out images of handwritten digits, {self.target}, one thread"
        table = Table("", "float (PyTorch)", "int8 in Python", "int8 compiled", title=title, box=SIMPLE_HEAD)
        table.add_row("accuracy", *(f"{a:.2%}" for a in self._accuracies))
        times = f"{self.float_seconds * 1e6:.1f} µs", f"{self.compiled_seconds * 1e6:.1f} µs"
        table.add_row("latency of one image", times[0], "", times[1])
        sizes = size(self.float_bytes), size(self.weight_bytes), f"{size(self.artifact_bytes)} with code"
        table.add_row("weights", *sizes)
        yield table
        yield f"  Python and compiled outputs agree bit for bit: {'yes' if self.is_identical else 'NO'}"
        yield f"  stayed float: {', '.join(f.name for f in self.floats) or 'nothing'}"
        yield f"  int8 against float: {self.float_seconds / self.compiled_seconds:.1f} times as fast"
        yield f"  the script that did this, to copy: {self.script}   the compiled model: {self.model}"
        yield f"  done in {self.total_seconds:.0f} s"

    @property
    def _accuracies(self) -> tuple[float, float, float]:
        return self.float_accuracy, self.python_accuracy, self.compiled_accuracy


def run_demo(folder: Path) -> Demo:
    """Train, trace, quantize, compile and run; write the script and the compiled model into `folder`.

    Raises FxquantError without scikit-learn, whose digits it works on, or when `folder` is none.
    """
    digits = _digits()
    if not folder.is_dir():
        raise FxquantError(f"there is no folder {folder} to leave the script in")
    script = folder / SCRIPT
    script.write_text(inspect.getsource(digits))
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        with torch.random.fork_rng(devices=[]):
            return _road(digits, folder, script)
    finally:
        torch.set_num_threads(threads)


def _digits() -> ModuleType:
    try:
        from fxquant.tools import digits
    except ModuleNotFoundError as error:
        raise FxquantError(
            f'the demo needs scikit-learn for its images ({error}): pip install "fxquant[demo]"'
        ) from error
    return digits


def _road(digits: ModuleType, folder: Path, script: Path) -> Demo:
    """The lines of the script's `main`, with measurements between."""
    start = perf_counter()
    torch.manual_seed(0)
    x, y, x_test, y_test = digits.images()
    model = digits.Digits()
    digits.train(model, x, y, track(range(8), "training"))
    with working("tracing"):
        graph = fxquant.trace(model, x[:1])
    quantized = fxquant.quantize(graph, x[:256].split(32))
    with working("compiling"):
        net = fxquant.compile(quantized, "native", name="digits", threads=1)
    path = folder / MODEL
    net.save(path)
    with working("running"), net, torch.no_grad():
        answers = [run(x_test) for run in (model, quantized, net)]
        seconds = latencies(model, net, x_test[:1])
    accuracies = [float((a.argmax(1) == y_test).float().mean()) for a in answers]
    found = fxquant.report(quantized)
    return Demo(
        held_out=len(x_test),
        float_accuracy=accuracies[0],
        python_accuracy=accuracies[1],
        compiled_accuracy=accuracies[2],
        is_identical=torch.equal(answers[1], answers[2]),
        float_seconds=seconds[0],
        compiled_seconds=seconds[1],
        float_bytes=found.float_weight_bytes,
        weight_bytes=found.weight_bytes,
        artifact_bytes=path.stat().st_size,
        floats=found.floats,
        target=str(net.artifact.target["name"]),
        script=str(script),
        model=str(path),
        total_seconds=perf_counter() - start,
    )


def latencies(model: nn.Module, net: Any, x: Tensor) -> tuple[float, float]:
    """Seconds of a call of the float and the compiled model: medians over calls, in rounds in which they take turns."""
    times: tuple[list[float], list[float]] = ([], [])
    with torch.inference_mode():
        for _ in range(ROUNDS):
            for run, found in zip((model, net), times, strict=True):
                for _ in range(CALLS):
                    begin = perf_counter()
                    run(x)
                    found.append(perf_counter() - begin)
    return median(times[0]), median(times[1])
