"""What was found for a quantized tensor: scale and zero point, and the only mathematics of Q in the library.

    q = clamp(round_half_even(x / scale) + zero_point, qmin, qmax)        x ~ scale * (q - zero_point)

All scales are float32 values held as Python floats, so that every target divides by the very same number.
"""

from __future__ import annotations

import ctypes
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxquant.errors import SchemeError
from fxquant.scheme import Scheme

# Below this a scale is no longer a normal float32 and x / scale loses its meaning.
SMALLEST_SCALE = 2.0**-100
LARGEST_SCALE = 2.0**100

DTYPES: dict[str, torch.dtype] = {"int8": torch.int8, "uint8": torch.uint8, "int16": torch.int16}


@dataclass(frozen=True)
class QParams:
    """Scale and zero point of one tensor: one of each, or one per channel along `axis`."""

    scale: tuple[float, ...]
    zero_point: tuple[int, ...]
    qmin: int = -128
    qmax: int = 127
    axis: int | None = None

    @staticmethod
    def tensor(scale: float, zero_point: int, qmin: int = -128, qmax: int = 127) -> QParams:
        """Parameters of a per-tensor quantization."""
        return QParams((as_float32(scale),), (zero_point,), qmin, qmax)

    @property
    def dtype(self) -> torch.dtype:
        """Storage dtype."""
        name = Scheme(self.qmin, self.qmax).storage
        return DTYPES[name]

    @property
    def one_scale(self) -> float:
        """The scale of a per-tensor quantization."""
        if self.axis is not None:
            raise SchemeError("these parameters are per channel; one scale was asked for")
        return self.scale[0]

    @property
    def one_zero_point(self) -> int:
        """The zero point of a per-tensor quantization."""
        if self.axis is not None:
            raise SchemeError("these parameters are per channel; one zero point was asked for")
        return self.zero_point[0]

    @property
    def real_range(self) -> tuple[float, float]:
        """Smallest and largest real value that any channel represents."""
        low = min(s * (self.qmin - z) for s, z in zip(self.scale, self.zero_point, strict=True))
        high = max(s * (self.qmax - z) for s, z in zip(self.scale, self.zero_point, strict=True))
        return low, high

    def quantize(self, x: Tensor) -> Tensor:
        """Real `x` to integers of the storage dtype; NaN becomes the zero point."""
        scale, zero = self._shaped(x)
        # In float32 whatever the dtype of x is: all targets divide so.
        rounded = torch.round(x.to(torch.float32) / scale)
        q = torch.nan_to_num(rounded, nan=0.0, posinf=torch.inf, neginf=-torch.inf) + zero
        return q.clamp(self.qmin, self.qmax).to(self.dtype)

    def dequantize(self, q: Tensor) -> Tensor:
        """Integers back to float32."""
        scale, zero = self._shaped(q)
        return (q.to(torch.float32) - zero) * scale

    def rounded(self, x: Tensor) -> Tensor:
        """Real `x` as the integers hold it: quantized and dequantized."""
        return self.dequantize(self.quantize(x))

    def _shaped(self, x: Tensor) -> tuple[Tensor, Tensor]:
        scale = torch.tensor(self.scale, dtype=torch.float32, device=x.device)
        zero = torch.tensor(self.zero_point, dtype=torch.float32, device=x.device)
        if self.axis is None:
            return scale.reshape(()), zero.reshape(())
        shape = [1] * x.ndim
        shape[self.axis] = -1
        return scale.reshape(shape), zero.reshape(shape)

    def __str__(self) -> str:
        """Short form, for reports."""
        if self.axis is None:
            return f"[{self.qmin},{self.qmax}] scale={self.scale[0]:.6g} zp={self.zero_point[0]}"
        return f"[{self.qmin},{self.qmax}] scale={min(self.scale):.3g}..{max(self.scale):.3g} per channel({self.axis})"

    def to_json(self) -> dict[str, Any]:
        """A JSON object that tells everything."""
        return {
            "scale": list(self.scale),
            "zero_point": list(self.zero_point),
            "qmin": self.qmin,
            "qmax": self.qmax,
            "axis": self.axis,
            "dtype": str(self.dtype).removeprefix("torch."),
        }


def as_float32(x: float) -> float:
    """`x` rounded to the nearest float32, as a Python float."""
    return ctypes.c_float(x).value


def choose_qparams(low: Sequence[float], high: Sequence[float], scheme: Scheme) -> QParams:
    """Scale and zero point that cover [low, high] per channel (or the one pair of a per-tensor scheme).

    The range is widened to hold zero, so that zero (padding, ReLU) is exact. A range of zero width gets scale 1.

    Raises SchemeError when a bound is not finite, low is above high, or the number of pairs does not fit the
    granularity.
    """
    if not scheme.per_channel and (len(low) != 1 or len(high) != 1):
        raise SchemeError(f"a per-tensor scheme takes one range, got {len(low)}")
    pairs = [_one(float(lo), float(hi), scheme) for lo, hi in zip(low, high, strict=True)]
    scales, zeros = tuple(s for s, _ in pairs), tuple(z for _, z in pairs)
    return QParams(scales, zeros, scheme.qmin, scheme.qmax, scheme.axis)


def _one(low: float, high: float, scheme: Scheme) -> tuple[float, int]:
    if not (abs(low) < float("inf") and abs(high) < float("inf")):
        raise SchemeError(f"the range [{low}, {high}] is not finite: look for NaN or infinity in the data")
    if low > high:
        raise SchemeError(f"the range [{low}, {high}] is empty: low must not be above high")
    low, high = min(low, 0.0), max(high, 0.0)
    qmin, qmax = scheme.qmin, scheme.qmax
    if scheme.symmetric:
        middle = 0 if qmin < 0 else (qmin + qmax + 1) // 2
        # Both ends must be reachable: the scale is set by the end that needs the larger one.
        scale = max(high / (qmax - middle), -low / (middle - qmin) if middle > qmin else 0.0)
        return _legal(scale), middle
    scale = _legal((high - low) / (qmax - qmin))
    zero = round(qmin - low / scale)
    return scale, max(qmin, min(qmax, zero))


def _legal(scale: float) -> float:
    if scale == 0.0:
        return 1.0
    return as_float32(min(max(scale, SMALLEST_SCALE), LARGEST_SCALE))
