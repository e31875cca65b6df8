"""Float operations whose results are defined to the bit, as those of integers are: what lies between dynamic ranges.

Curves, softmax and norms of rows are spelled in `fxquant.reals`, by which compiled code is written as well. A sum along
a row is one of `LANES` partial sums, element i going to the one of number i modulo `LANES`, in order; then the upper
half of them is added to the lower one, until one is left.
"""

from __future__ import annotations

import numpy as np
import torch
from torch import Tensor

from fxquant.primitives.registry import primitive
from fxquant.reals import CURVES, LANES, share

_ONE = 127 << 23  # the bits of 1.0


class _Tensors:
    """`fxquant.reals.Words` on tensors of float32: eager torch rounds after each operation."""

    def constant(self, value: float) -> Tensor:
        return torch.tensor(value, dtype=torch.float32)

    def plus(self, a: Tensor, b: Tensor) -> Tensor:
        return a + b

    def minus(self, a: Tensor, b: Tensor) -> Tensor:
        return a - b

    def times(self, a: Tensor, b: Tensor) -> Tensor:
        return a * b

    def over(self, a: Tensor, b: Tensor) -> Tensor:
        return a / b

    def root(self, x: Tensor) -> Tensor:
        # numpy's is IEEE's; torch asks a library here that rounds other numbers to a neighbour now and then.
        return torch.from_numpy(np.sqrt(x.numpy()))

    def clamp(self, x: Tensor, low: float, high: float) -> Tensor:
        return x.clamp(low, high)

    def magnitude(self, x: Tensor) -> Tensor:
        return x.abs()

    def signed(self, magnitude: Tensor, sign: Tensor) -> Tensor:
        return torch.copysign(magnitude, sign)

    def power_of_two(self, shifted: Tensor) -> Tensor:
        # In 64 bits, of which the lower half is kept: no sign is shifted out.
        wide = (shifted.contiguous().view(torch.int32).to(torch.int64) << 23) + _ONE & 0xFFFFFFFF
        return torch.where(wide >= 1 << 31, wide - (1 << 32), wide).to(torch.int32).view(torch.float32)

    def below(self, x: Tensor, limit: float, yes: Tensor, no: Tensor) -> Tensor:
        return torch.where(x < limit, yes, no)


_WORDS = _Tensors()


def _alike(x: Tensor, *rest: object) -> Tensor:
    return x.new_empty(x.shape, dtype=torch.float32)


@primitive(_alike)
def real_curve(x: Tensor, function: str) -> Tensor:
    """A function of one value, by its name in `fxquant.reals.CURVES`."""
    found: Tensor = CURVES[function](_WORDS, x)
    return found.clone() if found is x else found


@primitive(_alike)
def real_softmax(x: Tensor) -> Tensor:
    """Softmax over the last axis: e^(x - peak) over its sum. A row that holds NaN or plus infinity is NaN."""
    peak = torch.where(x.isnan(), -torch.inf, x).amax(-1, keepdim=True)
    power: Tensor = share(_WORDS, x - peak)
    return power / row_sum(power)


@primitive(_alike)
def real_norm(x: Tensor, weight: Tensor | None, bias: Tensor | None, epsilon: float, about_zero: bool) -> Tensor:
    """(x - mean) / sqrt(mean((x - mean)^2) + epsilon) * weight + bias over the last axis; or with 0 for the mean."""
    length = torch.tensor(float(x.shape[-1]), dtype=torch.float32)
    centred = x if about_zero else x - row_sum(x) / length
    mean_square = row_sum(centred * centred) / length
    unit = 1.0 / _WORDS.root(mean_square + torch.tensor(epsilon, dtype=torch.float32))
    result = centred * unit
    result = result if weight is None else result * weight
    return result if bias is None else result + bias


def _factor(a: Tensor, b: Tensor) -> Tensor:
    return a.new_empty(a.shape, dtype=torch.float32)


@primitive(_factor)
def scale_product(a: Tensor, b: Tensor) -> Tensor:
    """The scale of each sample's products, from those of its two operands."""
    return a * b


def row_sum(x: Tensor) -> Tensor:
    """The sum of the last axis, which stays with length 1, in the order that this module says."""
    length = x.shape[-1]
    whole = torch.nn.functional.pad(x, (0, -length % LANES)).reshape(*x.shape[:-1], -1, LANES)
    sums = torch.zeros_like(whole[..., 0, :])
    for part in whole.unbind(-2):
        sums = sums + part
    while sums.shape[-1] > 1:
        lower, upper = sums.chunk(2, -1)
        sums = lower + upper
    return sums
