"""Where the time goes: a network compiled with a clock reading between its layers, run as it always is.

    layer 0, layer 1, ...   =>   stamp, layer 0, stamp, layer 1, stamp, ...

A stamp is a layer of one task that stores the CPU's tick counter in one more output, `layer_ticks`. So every layer is
measured in place: with the caches as its neighbours leave them, on any number of threads, waiting for them included.
A stamp costs some tens of nanoseconds on one thread.
"""

from __future__ import annotations

import statistics
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from typing import Any

import numpy as np
from torch import fx

from fxquant import targets
from fxquant.errors import TargetError
from fxquant.runtime.model import CompiledModel
from fxquant.target import Target
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.hosted.ceiling import ceiling
from fxquant.targets.hosted.compiler import build_artifact
from fxquant.targets.kernels.contract.kernel import Kernel, TensorSpec
from fxquant.targets.kernels.words.tir import argument, prim_func
from fxquant.targets.lowering import lower
from fxquant.targets.program import Call, Program
from fxquant.targets.tvm_api import I, intrinsic

# x86's time stamp counter; Arm's virtual timer, since its cycle counter is closed to programs.
_COUNTERS = {"x86_64": "llvm.readcyclecounter", "aarch64": "llvm.readsteadycounter"}


@dataclass(frozen=True)
class LayerTime:
    """One layer: `median` and `best` are microseconds per run, `macs` is 0 where the lowering does not count them."""

    name: str
    kernel: str
    symbol: str
    shape: str
    tasks: int
    macs: int
    median: float
    best: float

    @property
    def gops(self) -> float:
        """Billions of operations per second in the best run, two for each multiply-accumulate."""
        return 2e-3 * self.macs / self.best if self.best else 0.0


@dataclass(frozen=True)
class Profile:
    """The layers of a network in the order of execution; `median` and `best` are microseconds from float to float.

    `ceiling` is what the threads could do together in GOPS, see `fxquant.targets.hosted.ceiling`.
    """

    threads: int
    rounds: int
    median: float
    best: float
    ceiling: float
    layers: tuple[LayerTime, ...]

    def slowest(self) -> list[LayerTime]:
        """Layers by their median, the slowest first."""
        return sorted(self.layers, key=lambda layer: -layer.median)

    def to_json(self) -> dict[str, Any]:
        """The profile as plain data, with the GOPS of each layer, and their share of the ceiling where it has MACs."""
        layers = [{**asdict(layer), "gops": layer.gops, "share": self.share(layer)} for layer in self.layers]
        return {**asdict(self), "layers": layers}

    def share(self, layer: LayerTime) -> float | None:
        """A layer's GOPS over the ceiling; None where its multiply-accumulates are not known."""
        return layer.gops / self.ceiling if layer.macs else None


def profile(
    quantized: fx.GraphModule,
    inputs: Sequence[Any],
    *,
    target: str | Target = "native",
    threads: int = 1,
    rounds: int = 30,
) -> Profile:
    """Time every layer of an INTEGER graph on one sample, `rounds` times after two runs that warm up.

    Raises TargetError for a target whose clock is not known here, and what compiling and running raise.
    """
    wanted = targets.get(target)
    with Stamped(lower(quantized, wanted), wanted, threads) as stamped:
        spent, ticks = stamped.run(inputs, rounds)
    spent = spent * 1e6 / ticks
    # Without the call from Python: from the first stamp to the last.
    whole = spent.sum(axis=1)
    layers = tuple(_layer(stamped.program, call, spent[:, index]) for index, call in enumerate(stamped.calls))
    reach = threads * ceiling(wanted.name)
    return Profile(threads, rounds, statistics.median(whole), float(whole.min()), reach, layers)


class Stamped:
    """A program that tells when each of its `calls` began and ended; to be closed like a model."""

    def __init__(self, program: Program, target: Target, threads: int) -> None:
        """Compile `program`, which is changed. Raises TargetError for a target whose clock is not known here."""
        self.program, self.calls = program, list(program.calls)
        _stamp(program, target.machine)
        self._model = CompiledModel(build_artifact(program, target, "profile", batched=False).unchecked(), threads)

    def __enter__(self) -> Stamped:
        return self

    def __exit__(self, *_error: object) -> None:
        self.close()

    def close(self) -> None:
        """End its threads."""
        self._model.close()

    def once(self, inputs: Sequence[Any]) -> np.ndarray[Any, Any]:
        """Ticks of every call in one run."""
        return np.diff(self._stamps(inputs))

    def run(self, inputs: Sequence[Any], rounds: int) -> tuple[np.ndarray[Any, Any], float]:
        """Ticks by round and call after two runs that warm up, and how many there are in a second."""
        samples: list[np.ndarray[Any, Any]] = []
        clock: list[tuple[float, int]] = []
        while len(samples) < rounds + 2 or time.perf_counter() - clock[0][0] < 0.1:
            # The longer, the less the interpreter's jitter matters for the ticks of a second.
            started = time.perf_counter()
            stamps = self._stamps(inputs)
            clock.append((started, int(stamps[0])))
            samples.append(np.diff(stamps))
        seconds, ticks = (clock[-1][axis] - clock[0][axis] for axis in (0, 1))
        return np.stack(samples[2 : rounds + 2]), ticks / seconds

    def _stamps(self, inputs: Sequence[Any]) -> np.ndarray[Any, Any]:
        returned = self._model(*inputs)
        stamps: np.ndarray[Any, Any] = np.asarray(returned[len(self.program.outputs) - 1])[0]
        return stamps


def _stamp(program: Program, machine: str) -> None:
    """Put a stamp before every call of `program` and after the last one, and their values among its outputs."""
    if machine not in _COUNTERS:
        raise TargetError(f"no clock is known for {machine}; profiling works on {', '.join(_COUNTERS)}")
    count = len(program.calls) + 1
    word = TensorSpec("int64", (1,), (1,))
    ticks = Buffer("layer_ticks", "output", 8 * count)
    symbol = program.symbol("stamp", ("stamp",), lambda: _stamp_kernel(_COUNTERS[machine]))
    layers: list[Call] = []
    for index, call in enumerate([*program.calls, None]):
        place = Tensor(ticks, word, index)
        layers.append(Call(symbol, (place,), (place,), f"stamp {index}", result=place))
        layers += [] if call is None else [call]
    program.calls[:] = layers
    program.outputs.append(Tensor(ticks, replace(word, shape=(1, count), strides=(count, 1))))


def _stamp_kernel(counter: str) -> Kernel:
    with prim_func("stamp") as finish:
        I.arg("task", I.int32())
        where = argument("where", 1, "int64", 8)
        I.buffer_store(where, intrinsic(counter, "int64"), [0])
    return Kernel(finish(), 1)


def _layer(program: Program, call: Call, spent: np.ndarray[Any, Any]) -> LayerTime:
    tensors = [a for a in call.arguments if isinstance(a, Tensor)]
    shape = " -> ".join("x".join(map(str, t.shape)) for t in (tensors[0], tensors[-1]))
    name = str(call.facts.get("kernel", call.symbol.removeprefix("fxq_").rpartition("_")[0]))
    median, best = float(np.median(spent)), float(spent.min())
    tasks = program.kernels[call.symbol].tasks
    return LayerTime(call.label, name, call.symbol, shape, tasks, int(call.facts.get("macs", 0)), median, best)
