"""Functions of real numbers, each spelled once in steps that IEEE float32 defines to the bit.

The same spelling makes the values in Python and the vector code: `Words` are what it is written in. Every step is one
operation with one rounding, in this order; a product is rounded before it is added to anything. The error is a few
units in the last place. Polynomials were fitted for this file, by least squares with weights that level the error.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, Protocol

LOG2_E = 1.4426950408889634
# ln 2 in two parts: products of the first one with whole numbers up to 2^15 are exact.
LN_2_HIGH, LN_2_LOW = 0.693359375, -2.12194440054690583e-4
# Added to a number below 2^22, it leaves the nearest whole number, ties to even, in the last bits.
TO_NEAREST = 12582912.0
# The ends between which e^x is a normal number.
LEAST_POWER, GREATEST_POWER = -87.0, 87.0

# (e^r - 1 - r) / r^2 for |r| <= ln(2) / 2, relative to e^r within 4e-9.
_POWER = (0.49999993, 0.1666652, 0.04166839, 0.00836875, 0.00138145)
# erf(z) / z as a quotient of polynomials in z^2, for z below 3.92, behind which erf is 1: relative error 2e-8.
_ERF_END = 3.92
_ERF_ABOVE = (1.1283791461484824, 0.1904059104365279, 0.05274864290929515, 0.003765592133575025, 0.00028488202379130245,
              2.050089099203678e-06)  # fmt: skip
_ERF_BELOW = (1.0, 0.5020755855711788, 0.11410887610411324, 0.01496916581810644, 0.0011625292940943424,
              3.8091698568033794e-05)  # fmt: skip
# (tanh(x) / x - 1) / x^2 for |x| below 0.55: relative error 2e-9.
_TANH_END = 0.55
_TANH = (-0.33333315, 0.1333248, -0.05384051, 0.0210205, -0.00619865)
_ROOT_HALF = 0.7071067811865476
# sqrt(8 / pi), and that times 0.044715: the argument of the sigmoid that is GELU's tanh form.
_GELU_LINEAR, _GELU_CUBIC = 1.5957691216057308, 0.07135481627159816


class Words(Protocol):
    """Operations on float32 values, each with one rounding or none."""

    def constant(self, value: float) -> Any:
        """A number, rounded to float32."""

    def plus(self, a: Any, b: Any) -> Any:
        """a + b."""

    def minus(self, a: Any, b: Any) -> Any:
        """a - b."""

    def times(self, a: Any, b: Any) -> Any:
        """a * b."""

    def over(self, a: Any, b: Any) -> Any:
        """a / b."""

    def root(self, x: Any) -> Any:
        """The square root."""

    def clamp(self, x: Any, low: float, high: float) -> Any:
        """min(max(x, low), high); NaN stays what it is."""

    def magnitude(self, x: Any) -> Any:
        """|x|."""

    def signed(self, magnitude: Any, sign: Any) -> Any:
        """`magnitude`, which is not negative, with the sign of `sign`."""

    def power_of_two(self, shifted: Any) -> Any:
        """2^n, where `shifted` is n + TO_NEAREST and -127 < n < 128."""

    def below(self, x: Any, limit: float, yes: Any, no: Any) -> Any:
        """`yes` where x < limit, else `no`, also where x is NaN."""


Function = Callable[[Words, Any], Any]


def _polynomial(w: Words, x: Any, coefficients: Sequence[float]) -> Any:
    """By Horner's rule; the first coefficient is the constant one."""
    value = w.constant(coefficients[-1])
    for coefficient in reversed(coefficients[:-1]):
        value = w.plus(w.times(value, x), w.constant(coefficient))
    return value


def exponential(w: Words, x: Any) -> Any:
    """e^x, with x held to where that is a normal number."""
    x = w.clamp(x, LEAST_POWER, GREATEST_POWER)
    shifted = w.plus(w.times(x, w.constant(LOG2_E)), w.constant(TO_NEAREST))
    whole = w.minus(shifted, w.constant(TO_NEAREST))
    rest = w.minus(w.minus(x, w.times(whole, w.constant(LN_2_HIGH))), w.times(whole, w.constant(LN_2_LOW)))
    curve = w.times(w.times(_polynomial(w, rest, _POWER), rest), rest)
    return w.times(w.plus(w.plus(curve, rest), w.constant(1.0)), w.power_of_two(shifted))


def share(w: Words, below_peak: Any) -> Any:
    """e^x for x <= 0, and exactly 0 where softmax sees nothing more."""
    return w.below(below_peak, LEAST_POWER, w.constant(0.0), exponential(w, below_peak))


def _over_one_plus(w: Words, above: Any, x: Any) -> Any:
    """above / (1 + e^-x), and above * 0 where that power is beyond all numbers."""
    inside = w.over(above, w.plus(exponential(w, w.minus(w.constant(0.0), x)), w.constant(1.0)))
    return w.below(x, LEAST_POWER, w.times(above, w.constant(0.0)), inside)


def _sigmoid(w: Words, x: Any) -> Any:
    return _over_one_plus(w, w.constant(1.0), x)


def _silu(w: Words, x: Any) -> Any:
    return _over_one_plus(w, x, x)


def _gelu_tanh(w: Words, x: Any) -> Any:
    inner = w.plus(w.times(w.times(x, x), w.constant(_GELU_CUBIC)), w.constant(_GELU_LINEAR))
    return _over_one_plus(w, x, w.times(inner, x))


def _erf(w: Words, x: Any) -> Any:
    size = w.magnitude(x)
    near = w.clamp(x, -_ERF_END, _ERF_END)
    square = w.times(near, near)
    quotient = w.over(_polynomial(w, square, _ERF_ABOVE), _polynomial(w, square, _ERF_BELOW))
    far = w.signed(w.constant(1.0), x)
    # NaN is no number of either side: it goes through the quotient.
    return w.below(w.minus(w.constant(0.0), size), -_ERF_END, far, w.times(near, quotient))


def _gelu(w: Words, x: Any) -> Any:
    both = w.plus(_erf(w, w.times(x, w.constant(_ROOT_HALF))), w.constant(1.0))
    return w.times(w.times(x, w.constant(0.5)), both)


def _tanh(w: Words, x: Any) -> Any:
    size = w.magnitude(x)
    square = w.times(size, size)
    near = w.plus(w.times(w.times(_polynomial(w, square, _TANH), square), size), size)
    # 1 - 2 / (e^2x + 1)
    power = w.plus(exponential(w, w.plus(size, size)), w.constant(1.0))
    far = w.minus(w.constant(1.0), w.over(w.constant(2.0), power))
    return w.signed(w.below(size, _TANH_END, near, far), x)


def _hardsigmoid(w: Words, x: Any) -> Any:
    return w.over(w.clamp(w.plus(x, w.constant(3.0)), 0.0, 6.0), w.constant(6.0))


def _hardswish(w: Words, x: Any) -> Any:
    return w.times(x, _hardsigmoid(w, x))


CURVES: dict[str, Function] = {
    "sigmoid": _sigmoid,
    "silu": _silu,
    "gelu": _gelu,
    "gelu_tanh": _gelu_tanh,
    "erf": _erf,
    "tanh": _tanh,
    "hardsigmoid": _hardsigmoid,
    "hardswish": _hardswish,
}

# Sums have an order: this many partial ones, place by place, of which halves are added until one is left.
LANES = 16
