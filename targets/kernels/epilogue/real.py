"""The other epilogue of the x86 kernels: from s32 accumulators in registers to float32, for ranges of run time.

    y    = clamp(float(acc) * (factor * scale) + bias + r, low, high)         the residual only with a fused addition
    peak = max(|y|)                                                           for each task, lane by lane

Every step is rounded by itself, as in `fxquant.primitives.dynamic`. Constant arguments, in this order: `factor` and
`bias` f32[channels], `ends` f32[2]; then of the run `scale` f32[1], and with `peaks` the `peaks` of the tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxquant.targets.kernels.contract.epilogue import RealNumbers
from fxquant.targets.kernels.contract.kernel import TensorSpec
from fxquant.targets.kernels.parts.params import Param
from fxquant.targets.kernels.words.numbers import PEAKS, magnitude, real
from fxquant.targets.kernels.words.reals import apart
from fxquant.targets.kernels.words.tir import argument, bits, load
from fxquant.targets.tvm_api import I, T, tirx

Array = np.ndarray[Any, Any]

# More tasks than any kernel has.
_MOST_TASKS = 1 << 16


def params(channels: int) -> list[Param]:
    """The constant arguments, for so many channels of which the first count."""

    def by_channel(name: str) -> Callable[[RealNumbers, TensorSpec], Array]:
        def values(numbers: RealNumbers, out: TensorSpec) -> Array:
            found = np.zeros(channels, np.float32)
            found[: out.shape[0]] = getattr(numbers, name).reshape(-1)
            return found

        return values

    return [
        Param("factors", channels, "float32", by_channel("factor")),
        Param("biases", channels, "float32", by_channel("bias")),
        Param("ends", 2, "float32", lambda numbers, _out: np.array([numbers.low, numbers.high], np.float32), align=4),
    ]


@dataclass(frozen=True)
class RealArguments:
    """The buffers of the epilogue inside a function being built; `task` is the function's."""

    lanes: int
    task: Any
    factors: Any
    biases: Any
    ends: Any
    scale: Any
    peaks: Any = None

    @staticmethod
    def begin(lanes: int, task: Any, with_peaks: bool, **constants: Any) -> RealArguments:
        """Declare the arguments of the run, and begin the task's peaks."""
        scale = argument("scale", 1, "float32", 4)
        if not with_peaks:
            return RealArguments(lanes, task, **constants, scale=scale)
        peaks = argument("peaks", PEAKS * _MOST_TASKS, "float32")
        I.buffer_store(peaks, T.broadcast(real(0.0), PEAKS), [I.ramp(task * PEAKS, 1, PEAKS)])
        return RealArguments(lanes, task, **constants, scale=scale, peaks=peaks)

    def element(self, accumulators: Any, channel: Any, residual: Any = None) -> Any:
        """One vector of results."""
        lanes = self.lanes
        unit = load(self.factors, channel, lanes) * T.broadcast(self.scale[0], lanes)
        whole = T.cast(bits(accumulators, f"int32x{lanes}"), f"float32x{lanes}")
        value = apart(whole * unit, f"float32x{lanes}") + load(self.biases, channel, lanes)
        value = value if residual is None else value + residual
        return I.Bind(T.min(T.broadcast(self.ends[1], lanes), T.max(T.broadcast(self.ends[0], lanes), value)))

    def note(self, values: Sequence[tuple[Any, int]]) -> None:
        """Take vectors into account of which the first so many lanes count."""
        if self.peaks is None or not values:
            return
        place = I.ramp(self.task * PEAKS, 1, self.lanes)
        most = self.peaks[place]
        for value, count in values:
            size = magnitude(value, self.lanes)
            if count < self.lanes:
                inside = I.ramp(0, 1, self.lanes) < T.broadcast(tirx.const(count, "int32"), self.lanes)
                size = tirx.Select(inside, size, T.broadcast(real(0.0), self.lanes))
            most = T.max(size, most)
        I.buffer_store(self.peaks, most, [place])
