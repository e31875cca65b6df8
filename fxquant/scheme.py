"""What is asked of a quantized tensor: integer range, symmetry, granularity, and how its range is observed."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from fxquant.errors import SchemeError
from fxquant.fields import check_fields

# Storage types in the order of preference; the first that holds [qmin, qmax] is used.
STORAGE: dict[str, tuple[int, int]] = {
    "int8": (-(1 << 7), (1 << 7) - 1),
    "uint8": (0, (1 << 8) - 1),
    "int16": (-(1 << 15), (1 << 15) - 1),
}


@dataclass(frozen=True)
class Scheme:
    """How one tensor is to be quantized.

    `qmin` and `qmax` are the integer range, any that fits int8, uint8 or int16. `symmetric` fixes the zero point at 0
    (at the middle of an unsigned range); an affine scheme may place it anywhere. `axis` is the channel axis of a
    per-channel scheme, None for per tensor. `observer` names an entry of `fxquant.observers`, with options after a
    colon: "percentile:99.99", "mean_std:k=4". `products` is for weights: how many products of neighbours the scale
    leaves room for in a sum of 16 bits (1: no matter, 2, 4; see `fxquant.products`). So is `narrow`: multipliers of the
    sums are rounded to what 32 bits have room for, where that moves no result by more than an eighth of a step (see
    `fxquant.ops.fixed_point`). `dynamic` is for activations: the range is not observed, but found for every sample
    while the network runs, with zero at the lowest code where values are known not to be negative, else in the middle.
    """

    qmin: int = -128
    qmax: int = 127
    symmetric: bool = False
    axis: int | None = None
    observer: str = "minmax"
    products: int = 1
    narrow: bool = False
    dynamic: bool = False

    def __post_init__(self) -> None:
        """Refuse a range that no storage type holds, and a value of another type than its field's."""
        check_fields(self, "a scheme", SchemeError)
        if self.qmin >= self.qmax:
            raise SchemeError(f"empty integer range [{self.qmin}, {self.qmax}]: qmin must be below qmax")
        if not _fitting(self.qmin, self.qmax):
            raise SchemeError(
                f"[{self.qmin}, {self.qmax}] fits none of {', '.join(STORAGE)}: choose a range that one of them holds"
            )
        if self.products not in (1, 2, 4):
            raise SchemeError(f"room can be left for 1, 2 or 4 products, not {self.products}")
        if self.dynamic and not self.qmin < 0 < self.qmax:
            raise SchemeError(f"a range that is found at run time needs codes on both sides of zero, not {self.span}")
        if self.symmetric and self.qmin < 0 and self.qmax <= 0:
            raise SchemeError(f"a symmetric signed scheme needs zero inside [{self.qmin}, {self.qmax}]")
        if self.symmetric and self.qmax - self.qmin < 2:
            raise SchemeError(
                f"a symmetric scheme needs codes on both sides of zero, not just [{self.qmin}, {self.qmax}]"
            )

    @property
    def storage(self) -> str:
        """Name of the narrowest dtype that holds the range."""
        return _fitting(self.qmin, self.qmax)[0]

    @property
    def bits(self) -> int:
        """Bits that tell all values of the range apart."""
        return (self.qmax - self.qmin).bit_length()

    @property
    def per_channel(self) -> bool:
        """Whether every channel has a scale of its own."""
        return self.axis is not None

    @property
    def span(self) -> str:
        """The integer range, for messages."""
        return f"[{self.qmin}, {self.qmax}]"

    def with_(self, **changes: Any) -> Scheme:
        """A copy with some fields replaced, checked again."""
        return replace(self, **changes)

    def __str__(self) -> str:
        """Short form, for reports: 's8 affine per-tensor (minmax)'."""
        sign = "s" if self.qmin < 0 else "u"
        kind = "symmetric" if self.symmetric else "affine"
        grain = f"per-channel({self.axis})" if self.per_channel else "per-tensor"
        if self.dynamic:
            return f"{sign}{self.bits} dynamic per-sample"
        room = f", room for {self.products} products" if self.products > 1 else ""
        room += ", narrow multipliers" if self.narrow else ""
        return f"{sign}{self.bits} {kind} {grain} ({self.observer}{room})"


def _fitting(qmin: int, qmax: int) -> list[str]:
    return [name for name, (low, high) in STORAGE.items() if low <= qmin and qmax <= high]


def activation(bits: int = 8, *, observer: str = "minmax") -> Scheme:
    """The usual activation scheme: signed, affine, per tensor."""
    return Scheme(-(1 << (bits - 1)), (1 << (bits - 1)) - 1, symmetric=False, observer=observer)


def weight(
    bits: int = 8, *, axis: int | None = 0, observer: str = "minmax", products: int = 1, narrow: bool = False
) -> Scheme:
    """The usual weight scheme: signed, symmetric, per output channel, and -w exists for every w (no lowest code)."""
    top = (1 << (bits - 1)) - 1
    return Scheme(-top, top, symmetric=True, axis=axis, observer=observer, products=products, narrow=narrow)
