"""What becomes of accumulators: the form that is compiled into a kernel, and the numbers that it reads at run time."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fxquant.targets.kernels.contract.kernel import TensorSpec

RESIDUAL_LIMIT = 1 << 59


@dataclass(frozen=True)
class Epilogue:
    """What is compiled into the kernel: `residual` is the other operand of an add.

    `raw` stores accumulators as s32, `real` as float32, with `peaks` also the largest magnitudes. `narrow` rounds in 32
    bits; `whole`: the clamp is to all that the result's type holds, as packing clamps without being asked.
    """

    shift: int = 0
    residual: TensorSpec | None = None
    table: bool = False
    raw: bool = False
    real: bool = False
    peaks: bool = False
    narrow: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.shift <= 31:
            raise ValueError(f"epilogue: shift must be in [0, 31], got {self.shift}")
        if self.raw and (self.shift or self.residual or self.table):
            raise ValueError("epilogue: a raw (s32) output takes no shift, residual or table")
        if self.real and (self.shift or self.table or self.raw):
            raise ValueError("epilogue: a real (float32) output takes no shift or table")
        if self.narrow and (self.shift or self.residual or self.raw or self.real):
            raise ValueError("epilogue: the narrow form is for multipliers alone")
        if self.whole and (self.raw or self.real):
            raise ValueError("epilogue: only what is rounded is clamped to a whole range")

    def check(self, out: TensorSpec) -> None:
        """Raise ValueError unless this epilogue can store `out`, a (C, H, W) view with channel stride 1."""
        if out.shape[0] > 1 and out.strides[0] != 1:
            raise ValueError(f"epilogue: the output must have channel stride 1, got {out}")
        types = ("int32",) if self.raw else ("float32",) if self.real else ("uint8", "int8", "int16")
        if out.dtype not in types:
            raise ValueError(f"epilogue: cannot store {out.dtype} (raw={self.raw})")
        if self.table and out.dtype not in ("uint8", "int8"):
            raise ValueError(f"epilogue: a table needs an output of bytes, got {out.dtype}")
        other = self.residual
        if other is not None and (other.shape != out.shape or (other.shape[0] > 1 and other.strides[0] != 1)):
            raise ValueError(f"epilogue: the residual {other} does not match the output {out}")


@dataclass(frozen=True)
class Requantization:
    """The numbers of one layer: M per channel (or one), the output's zero point and range, all in the value domain.

    `residual_multiplier`, `residual_shift` and `residual_zero_point` are Mr, rs and the zero point of a fused add;
    `table` maps each byte of memory to the byte stored (256 entries).
    """

    multiplier: np.ndarray[Any, Any] | int
    zero_point: int
    low: int
    high: int
    residual_multiplier: int = 0
    residual_shift: int = 0
    residual_zero_point: int = 0
    table: np.ndarray[Any, Any] | None = None


@dataclass(frozen=True)
class RealNumbers:
    """The numbers of one layer: what accumulators are multiplied by beside the scale, the bias, and the clamp."""

    factor: np.ndarray[Any, Any]
    bias: np.ndarray[Any, Any]
    low: float = float("-inf")
    high: float = float("inf")

    def packed(self, count: int, channels: int) -> dict[str, np.ndarray[Any, Any]]:
        """The constants by name, for `count` channels of which the kernel may index `channels`."""
        constants = {}
        for name, values in (("factors", self.factor), ("biases", self.bias)):
            constants[name] = np.zeros(channels, np.float32)
            constants[name][:count] = values.reshape(-1)
        return {**constants, "ends": np.array([self.low, self.high], np.float32)}


Numbers = Requantization | RealNumbers
