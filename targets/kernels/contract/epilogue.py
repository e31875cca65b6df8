"""What becomes of accumulators: the form that is compiled into a kernel, and the numbers that it reads at run time."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any, ClassVar

import numpy as np

from fxquant.targets.kernels.contract.kernel import TensorSpec

RESIDUAL_LIMIT = 1 << 59


class Epilogue:
    """What is compiled into a kernel: one of `Raw`, `Real` and `Rounded`. What a form has not, it answers with none.

    `residual` is the other operand of a fused add, like the output.
    """

    TYPES: ClassVar[tuple[str, ...]]
    residual: TensorSpec | None = None
    shift: int = 0
    table: bool = False
    narrow: bool = False
    whole: bool = False
    peaks: bool = False

    def beside(self, residual: TensorSpec | None) -> Epilogue:
        """The same form with another residual."""
        if residual is not None:
            raise ValueError(f"epilogue: {type(self).__name__} adds no residual")
        return self

    def check(self, out: TensorSpec) -> None:
        """Raise ValueError unless this epilogue can store `out`, a (C, H, W) view with channel stride 1."""
        if out.shape[0] > 1 and out.strides[0] != 1:
            raise ValueError(f"epilogue: the output must have channel stride 1, got {out}")
        if out.dtype not in self.TYPES:
            raise ValueError(f"epilogue: {type(self).__name__} cannot store {out.dtype}")
        if self.table and out.dtype not in ("uint8", "int8"):
            raise ValueError(f"epilogue: a table needs an output of bytes, got {out.dtype}")
        other = self.residual
        if other is not None and (other.shape != out.shape or (other.shape[0] > 1 and other.strides[0] != 1)):
            raise ValueError(f"epilogue: the residual {other} does not match the output {out}")


@dataclass(frozen=True)
class Raw(Epilogue):
    """Accumulators as they are, in s32."""

    TYPES: ClassVar[tuple[str, ...]] = ("int32",)


@dataclass(frozen=True)
class Real(Epilogue):
    """As float32, by a scale of run time; with `peaks` the largest magnitudes are noted as well."""

    TYPES: ClassVar[tuple[str, ...]] = ("float32",)
    residual: TensorSpec | None = None
    peaks: bool = False

    def beside(self, residual: TensorSpec | None) -> Epilogue:
        """The same form with another residual."""
        return replace(self, residual=residual)


@dataclass(frozen=True)
class Rounded(Epilogue):
    """As integers of a scale, by a multiplier and 2^`shift`; with `table` looked up after that.

    `narrow` rounds in 32 bits; `whole`: the clamp is to all that the result's type holds, as packing clamps without
    being asked.
    """

    TYPES: ClassVar[tuple[str, ...]] = ("uint8", "int8", "int16")
    shift: int = 0
    residual: TensorSpec | None = None
    table: bool = False
    narrow: bool = False
    whole: bool = False

    def __post_init__(self) -> None:
        if not 0 <= self.shift <= 31:
            raise ValueError(f"epilogue: shift must be in [0, 31], got {self.shift}")
        if self.narrow and (self.shift or self.residual):
            raise ValueError("epilogue: the narrow form is for multipliers alone")

    def beside(self, residual: TensorSpec | None) -> Epilogue:
        """The same form with another residual."""
        return replace(self, residual=residual)


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


Numbers = Requantization | RealNumbers
