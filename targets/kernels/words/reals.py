"""What `fxquant.reals` is spelled with, as TIR: vectors of `LANES` floats on any machine, which LLVM cuts to its own.

What LLVM could make one operation of two, it is kept from by a fence around each product.
"""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fxquant.reals import LANES
from fxquant.targets.kernels.words.numbers import magnitude, real
from fxquant.targets.kernels.words.tir import bits, splat
from fxquant.targets.tvm_api import I, T, intrinsic, tirx

VECTOR = f"float32x{LANES}"
_SIGN, _ONE, _FRACTION = 1 << 31, 127 << 23, 23


def apart(product: Any, dtype: str) -> Any:
    """A product that is rounded before it is added to anything: TVM lets LLVM make one operation of both."""
    return intrinsic("llvm.arithmetic.fence", dtype, product)


class Vectors:
    """`fxquant.reals.Words` on vectors; each step is bound, so that nobody rewrites several of them."""

    def constant(self, value: float) -> Any:
        """In all lanes."""
        return T.broadcast(real(value), LANES)

    def plus(self, a: Any, b: Any) -> Any:
        """a + b, which no subtraction takes back: rounding to whole numbers is made of it."""
        return I.Bind(apart(a + b, VECTOR))

    def minus(self, a: Any, b: Any) -> Any:
        """a - b."""
        return I.Bind(a - b)

    def times(self, a: Any, b: Any) -> Any:
        """a * b, rounded by itself."""
        return I.Bind(apart(a * b, VECTOR))

    def over(self, a: Any, b: Any) -> Any:
        """a / b."""
        return I.Bind(a / b)

    def root(self, x: Any) -> Any:
        """The square root, which IEEE rounds."""
        return I.Bind(intrinsic("llvm.sqrt", VECTOR, x))

    def clamp(self, x: Any, low: float, high: float) -> Any:
        """In this order NaN stays what it is."""
        return I.Bind(T.min(self.constant(high), T.max(self.constant(low), x)))

    def magnitude(self, x: Any) -> Any:
        """|x|, by its bits."""
        return I.Bind(magnitude(x, LANES))

    def signed(self, magnitude: Any, sign: Any) -> Any:
        """By the bits of both."""
        integers = f"uint32x{LANES}"
        return I.Bind(
            bits(T.bitwise_or(bits(magnitude, integers), T.bitwise_and(bits(sign, integers), _all(_SIGN))), VECTOR)
        )

    def power_of_two(self, shifted: Any) -> Any:
        """The last bits become the exponent's, modulo 2^32."""
        moved = T.shift_left(bits(shifted, f"uint32x{LANES}"), _all(_FRACTION))
        return I.Bind(bits(moved + _all(_ONE), VECTOR))

    def below(self, x: Any, limit: float, yes: Any, no: Any) -> Any:
        """False of NaN."""
        return I.Bind(tirx.Select(x < self.constant(limit), yes, no))


def _all(value: int) -> Any:
    return splat(value, "uint32", LANES)


def folded(vector: Any, both: Callable[[Any, Any], Any]) -> Any:
    """Halves put together until one lane is left, as a scalar."""
    count = LANES
    while count > 1:
        count //= 2
        lower, upper = (tirx.Shuffle([vector], [tirx.const(k + i, "int32") for i in range(count)]) for k in (0, count))
        vector = I.Bind(both(lower, upper))
    return vector
