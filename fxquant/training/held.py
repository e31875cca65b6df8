"""Primitives on integers that are held in float tensors: the same integers as `fxquant.primitives` gives, faster.

A float32 holds every whole number up to 2^24, a float64 up to 2^53. Sums of products are computed in float32 where the
weights prove that no partial sum leaves 2^24 (on a CPU, which multiplies in float32 what it is told to), else in
float64. A requantization is one float64 product: x * M / 2^32 is a multiple of 2^-32, so it is exact below 2^20, and
beyond that it is far outside of every result type. A sum of two such products is exact where both are below 2^20,
which is shown from the numbers. What has no faster form here, or is not proven, the primitive itself computes.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from fxquant.primitives.registry import storage
from fxquant.qparams import QParams

fxq = torch.ops.fxq

_EXACT_IN_FLOAT32 = 2.0**24
_EXACT_PRODUCT = 2.0**20
_UNIT = 2.0**-32


@dataclass(frozen=True)
class Held:
    """Whole numbers from `low` to `high`, in a tensor of any type that holds them exactly."""

    values: Tensor
    low: float
    high: float

    @property
    def meta(self) -> dict[str, Tensor]:
        """As a node of a graph has it: shape and type are those of the value."""
        return {"val": self.values}

    def reach(self, zero: float = 0.0) -> float:
        """The largest magnitude of a number less `zero`."""
        return max(self.high - zero, zero - self.low, 0.0)

    def stored(self) -> Tensor:
        """In the type that the primitives have for such numbers."""
        if not self.values.dtype.is_floating_point:
            return self.values
        fits = self.low >= -(1 << 15) and self.high < 1 << 15
        return self.values.to(storage(int(self.low), int(self.high)) if fits else torch.int32)


def held(values: Tensor) -> Held:
    """Numbers of an integer type, of which nothing more is known."""
    if values.dtype is torch.bool:
        return Held(values, 0.0, 1.0)
    kind = torch.iinfo(values.dtype)
    return Held(values, float(kind.min), float(kind.max))


def quantize(x: Tensor, q: QParams) -> Held:
    """The primitive `quantize`, in float32."""
    steps = torch.round(x.detach().to(torch.float32) / torch.tensor(q.one_scale, dtype=torch.float32, device=x.device))
    steps = torch.nan_to_num_(steps, nan=0.0, posinf=torch.inf, neginf=-torch.inf)
    return Held(steps.add_(q.one_zero_point).clamp_(q.qmin, q.qmax), q.qmin, q.qmax)


def dequantize(x: Held, q: QParams) -> Tensor:
    """The primitive `dequantize`."""
    values = x.values.to(torch.float32)
    if q.one_zero_point:
        values = values - q.one_zero_point
    return values * torch.tensor(q.one_scale, dtype=torch.float32, device=values.device)


def compute(primitive: Any, arguments: tuple[Any, ...]) -> Held:
    """What a primitive, or a move of ATen's, gives for integers held: `Held`, tensors, lists of them, and numbers."""
    faster = FASTER.get(primitive)
    found = faster(*arguments) if faster is not None else None
    if found is not None:
        return found
    if str(primitive).startswith("fxq."):
        return held(primitive(*_plain(arguments, Held.stored)))
    # A move or a choice: none but the numbers that there are.
    parts = list(_parts(arguments))
    values = primitive(*_plain(arguments, lambda part: part.values))
    return Held(values, min(part.low for part in parts), max(part.high for part in parts))


def _plain(arguments: Any, tensor: Callable[[Held], Tensor]) -> list[Any]:
    return [
        tensor(a) if isinstance(a, Held) else _plain(a, tensor) if isinstance(a, (list, tuple)) else a
        for a in arguments
    ]


def _parts(arguments: Any) -> list[Held]:
    found: list[Held] = []
    for a in arguments:
        found.extend([a] if isinstance(a, Held) else _parts(a) if isinstance(a, (list, tuple)) else [])
    return found


def _centred(x: Held, zero: int, bound: float) -> Tensor:
    exact = bound < _EXACT_IN_FLOAT32 and x.values.device.type == "cpu"
    values = x.values.to(torch.float32 if exact else torch.float64)
    return values - zero if zero else values


def _bound(x: Held, zero: int, weight: Held, bias: Held | None) -> float:
    """What no partial sum of a product exceeds, in whatever order it is summed; the weight's channels are axis 0."""
    taps = weight.values.detach().flatten(1).to(torch.float64).abs().sum(1)
    sums = taps * x.reach(zero)
    return float((sums if bias is None else sums + bias.values.abs()).max())


def _conv(
    x: Held, weight: Held, bias: Held | None, zero: int, stride: list[int], padding: list[int], dilation: list[int],
    groups: int, drop: int = 0,
) -> Held | None:  # fmt: skip
    if drop:
        return None
    bound = _bound(x, zero, weight, bias)
    a = _centred(x, zero, bound)
    function: Any = torch.conv1d if len(stride) == 1 else torch.conv2d
    acc = function(a, weight.values.to(a.dtype), _as(bias, a.dtype), stride, padding, dilation, groups)
    return Held(_whole(acc), -bound, bound)


def _linear(x: Held, weight: Held, bias: Held | None, zero: int, drop: int = 0) -> Held | None:
    if drop:
        return None
    bound = _bound(x, zero, weight, bias)
    a = _centred(x, zero, bound)
    acc = torch.nn.functional.linear(a, weight.values.to(a.dtype), _as(bias, a.dtype))
    return Held(_whole(acc), -bound, bound)


def _as(bias: Held | None, dtype: torch.dtype) -> Tensor | None:
    return None if bias is None else bias.values.to(dtype)


def _whole(acc: Tensor) -> Tensor:
    # Elsewhere a library may go by another algorithm, whose float64 is near a whole number but not on it.
    return acc if acc.device.type == "cpu" else torch.round(acc)


def _requantize(x: Held, multiplier: Held, shift: int, zero_in: int, zero: int, qmin: int, qmax: int) -> Held:
    steps = _scaled(x, multiplier, shift, zero_in).add_(0.5).floor_()
    return _codes(steps, zero, qmin, qmax)


def _add(
    a: Held, a_multiplier: Held, a_shift: int, a_zero: int, b: Held, b_multiplier: Held, b_shift: int, b_zero: int,
    zero: int, qmin: int, qmax: int,
) -> Held | None:  # fmt: skip
    left, right = (a, a_multiplier, a_shift, a_zero), (b, b_multiplier, b_shift, b_zero)
    if max(_largest(*left), _largest(*right)) >= _EXACT_PRODUCT:
        return None
    return _codes((_scaled(*left) + _scaled(*right)).add_(0.5).floor_(), zero, qmin, qmax)


def _scaled(x: Held, multiplier: Held, shift: int, zero: int) -> Tensor:
    values = x.values.to(torch.float64)
    if zero:
        values = values - zero
    return values * (multiplier.values.to(torch.float64) * (_UNIT * 2.0**shift))


def _largest(x: Held, multiplier: Held, shift: int, zero: int) -> float:
    return x.reach(zero) * float(multiplier.values.abs().max()) * _UNIT * 2.0**shift


def _codes(steps: Tensor, zero: int, qmin: int, qmax: int) -> Held:
    return Held(steps.add_(zero).clamp_(qmin, qmax).to(torch.float32), qmin, qmax)


def _lookup(x: Held, table: Held, low: int) -> Held:
    return Held(table.values[x.values.to(torch.int64) - low], table.low, table.high)


def _sum_reduce(x: Held, zero: int, dims: list[int], keepdim: bool) -> Held:
    count = 1
    for dim in dims:
        count *= x.values.shape[dim]
    bound = count * x.reach(zero)
    return Held(_centred(x, zero, bound).sum(dims, keepdim=keepdim), -bound, bound)


def _max_pool(x: Held, kernel: list[int], *settings: Any) -> Held:
    function: Any = torch.nn.functional.max_pool1d if len(kernel) == 1 else torch.nn.functional.max_pool2d
    return Held(function(x.values.to(torch.float32), kernel, *settings), x.low, x.high)


def _pad(x: Held, widths: list[int], value: int) -> Held:
    padded = torch.nn.functional.pad(x.values, widths, "constant", value)
    return Held(padded, min(x.low, value), max(x.high, value))


FASTER: dict[Any, Callable[..., Held | None]] = {
    fxq.conv.default: _conv,
    fxq.linear.default: _linear,
    fxq.requantize.default: _requantize,
    fxq.add.default: _add,
    fxq.lookup.default: _lookup,
    fxq.sum_reduce.default: _sum_reduce,
    fxq.max_pool.default: _max_pool,
    fxq.pad.default: _pad,
}
