"""The range from mean and variance: [mean - k std, mean + k std], within the data's extremes.

Under a normal distribution the share of values clipped is erfc(k / sqrt(2)): 4.6 % for k = 2, 0.27 % for 3, 6.3e-5
for 4, 5.7e-7 for 5. A distribution with heavier tails loses more, by Chebyshev's inequality never more than 1 / k^2.

Floating point sums depend on the order of addition, so two halves would not give what the whole gives. Here all sums
are integers: a float32 is mantissa * 2^(exponent - 150) with 24 bits of mantissa, and for each exponent the mantissas,
and the upper and lower halves of their squares, are added up in an int64 each. Good for 2^39 values per channel.
"""

from __future__ import annotations

import math
from fractions import Fraction
from math import isqrt

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from fxquant.errors import SchemeError
from fxquant.observers.base import Observer
from fxquant.observers.registry import register
from fxquant.scheme import Scheme

# float32: 8 bits of exponent above 23 of mantissa; an exponent of 0 means 2^-149 without the hidden bit.
EXPONENTS = 256
MANTISSA_BITS = 23

# So few values expected beyond a point make one that is there a proof of another distribution.
UNLIKELY = 1e-6

# Values taken at a time: in the cache, and few enough for sums of 24-bit integers to be exact in float64.
CHUNK = 1 << 16


@register("mean_std")
class MeanStd(Observer):
    """Looks at the bulk of the values, not at the extremes; meant for bell-shaped data."""

    sums: Tensor

    def __init__(self, scheme: Scheme, where: str = "", *, k: float = 4.0) -> None:
        """`k` > 0: how many standard deviations the range reaches to each side of the mean."""
        super().__init__(scheme, where)
        if not 0.0 < k < float("inf"):
            raise SchemeError(f"k = {k} standard deviations: it must be a positive number")
        self.k = k
        self.register_buffer("sums", torch.zeros(len(self.low), 3, EXPONENTS, dtype=torch.int64))

    @property
    def options(self) -> dict[str, float]:
        """The number of standard deviations."""
        return {"k": self.k}

    def record(self, rows: Tensor, low: Tensor, high: Tensor) -> None:
        """Add up mantissas and their squares per exponent."""
        sums = np.stack([exponent_sums(row) for row in rows.numpy()])
        self._add(torch.from_numpy(sums))

    def absorb(self, other: Observer) -> None:
        """Add the sums of `other`."""
        assert isinstance(other, MeanStd)  # `merge` has compared the kinds
        self._add(other.sums)

    def bounds(self) -> tuple[Tensor, Tensor]:
        """mean -+ k std, cut to the extremes of the data."""
        mean, std = self.mean_std()
        low = torch.maximum(mean - self.k * std, self.low.to(torch.float64))
        high = torch.minimum(mean + self.k * std, self.high.to(torch.float64))
        return low, high

    def doubt(self) -> str:
        """Values so far out that not one of as many would be, if they were bell-shaped: then k says little."""
        mean, std = self.mean_std()
        reach = torch.maximum(self.high - mean, mean - self.low) / std.clamp_min(torch.finfo(torch.float64).tiny)
        far = float(reach.max())
        expected = self.count * math.erfc(far / math.sqrt(2.0))
        if far <= self.k or expected >= UNLIKELY:
            return ""
        return f"values reach {far:.0f} standard deviations; mean_std is for bell-shaped data, and cuts at {self.k:g}"

    def mean_std(self) -> tuple[Tensor, Tensor]:
        """Mean and (population) standard deviation, float64 [channels], correctly rounded up to the last bits."""
        count = self.count // len(self.low)
        pairs = [_mean_std(sums, count) for sums in self.sums.tolist()]
        mean, std = torch.tensor(pairs, dtype=torch.float64, device=self.low.device).unbind(1)
        return mean, std

    def _add(self, sums: Tensor) -> None:
        sums = sums.to(self.sums.device)
        self.sums = self.sums + sums if len(self.sums) else sums.clone()


def exponent_sums(values: NDArray[np.float32]) -> NDArray[np.int64]:
    """Per exponent field [3, 256]: the sums of the mantissas, of the squares' upper and of their lower 24 bits."""
    total = np.zeros((3, EXPONENTS), dtype=np.int64)
    for start in range(0, len(values), CHUNK):
        bits = np.ascontiguousarray(values[start : start + CHUNK]).view(np.int32)
        exponent = ((bits >> MANTISSA_BITS) & (EXPONENTS - 1)).astype(np.intp)
        hidden = (exponent > 0).astype(np.int64) << MANTISSA_BITS
        mantissa = (bits & ((1 << MANTISSA_BITS) - 1)) | hidden
        square = mantissa * mantissa
        parts = (np.where(bits < 0, -mantissa, mantissa), square >> 24, square & ((1 << 24) - 1))
        for row, part in zip(total, parts, strict=True):
            row += np.bincount(exponent, weights=part, minlength=EXPONENTS).astype(np.int64)
    return total


def _mean_std(sums: list[list[int]], count: int) -> tuple[float, float]:
    first = second = 0
    for field, (mantissas, upper, lower) in enumerate(zip(*sums, strict=True)):
        power = max(field, 1) - 1
        # In units of 2^-149 and 2^-298, the smallest there are, both sums are integers.
        first += mantissas << power
        second += ((upper << 24) + lower) << (2 * power)
    # count^2 variance in units of 2^-298, without cancellation.
    spread = count * second - first * first
    mean = Fraction(first, count << 149)
    # 2^128 more before the root, 2^64 less after it: enough bits even for the smallest spread.
    std = Fraction(isqrt(spread << 128), count << (149 + 64))
    return float(mean), float(std)
