"""Sums, products, quotients, powers and shifts of elements."""

from __future__ import annotations

from typing import Any

from tvm import tirx

from fxquant.targets.tvm_operators.elementwise import Body, both, elementwise, is_float, like
from fxquant.targets.tvm_operators.operator import Converter, choose, kind


def scaled(sign: int) -> Body:
    """`x + alpha y`, or minus."""

    def body(x: Any, y: Any, alpha: float = 1) -> Any:
        if kind(x) == "bool":
            return tirx.any(x, tirx.all(y, tirx.const(bool(alpha), "bool")))
        return x + y if sign * alpha == 1 else x - y if sign * alpha == -1 else x + y * like(sign * alpha, x)

    return body


def times(x: Any, y: Any) -> Any:
    """Of truths: both."""
    return tirx.all(x, y) if kind(x) == "bool" else x * y


def divide(x: Any, y: Any) -> Any:
    """The quotient of floats."""
    return x / y


def divide_rounded(x: Any, y: Any, mode: str | None) -> Any:
    """As torch does: the floor of a float quotient is found from its remainder."""
    if mode is None:
        return x / y
    if not is_float(x):
        y = _no_zero(y)
        return tirx.floordiv(x, y) if mode == "floor" else tirx.truncdiv(x, y)
    if mode == "trunc":
        return tirx.trunc(x / y)
    zero, one = like(0, x), like(1, x)
    rest = _fmod(x, y)
    quotient = (x - rest) / y
    quotient = choose(tirx.all(tirx.NE(rest, zero), _apart(y < zero, rest < zero)), quotient - one, quotient)
    whole = tirx.floor(quotient)
    whole = choose(quotient - whole > like(0.5, x), whole + one, whole)
    return choose(tirx.EQ(y, zero), x / y, choose(tirx.EQ(quotient, zero), tirx.copysign(zero, x / y), whole))


def _fmod(x: Any, y: Any) -> Any:
    """C's function: TVM has no code for its own."""
    return tirx.call_pure_extern(kind(x), "fmodf" if kind(x) == "float32" else "fmod", x, y)


def _apart(a: Any, b: Any) -> Any:
    """Whether one of two conditions holds: TVM has no comparison of truths."""
    return tirx.NE(a.astype("int32"), b.astype("int32"))


def _no_zero(y: Any) -> Any:
    """Torch raises where an integer is divided by zero; the processor must not."""
    return choose(tirx.EQ(y, like(0, y)), like(1, y), y)


def remainder(x: Any, y: Any) -> Any:
    """With the sign of the divisor."""
    if not is_float(x):
        return tirx.floormod(x, _no_zero(y))
    zero = like(0, x)
    rest = _fmod(x, y)
    return choose(tirx.all(tirx.NE(rest, zero), _apart(y < zero, rest < zero)), rest + y, rest)


def fmod(x: Any, y: Any) -> Any:
    """With the sign of the dividend."""
    return _fmod(x, y) if is_float(x) else tirx.truncmod(x, _no_zero(y))


# torch computes these powers otherwise than by its function for any.
_POWERS: dict[float, Body] = {
    0.5: tirx.sqrt,
    -0.5: lambda x: like(1, x) / tirx.sqrt(x),
    -1.0: lambda x: like(1, x) / x,
    -2.0: lambda x: like(1, x) / (x * x),
}
# Larger whole exponents of integers are not multiplied out.
_MOST_FACTORS = 64


def power_of(x: Any, exponent: float) -> Any:
    """A power with a constant exponent."""
    if float(exponent) in _POWERS and is_float(x):
        return _POWERS[float(exponent)](x)
    if float(exponent).is_integer() and 0 <= exponent <= (3 if is_float(x) else _MOST_FACTORS):
        found = like(1, x)
        for _ in range(int(exponent)):
            found = found * x
        return found
    return power(x, like(exponent, x))


def power(x: Any, y: Any) -> Any:
    """A power of floats."""
    if not is_float(x):
        raise ValueError("an integer to a power that is computed")
    return tirx.pow(x, y)


def shift(direction: str) -> Body:
    """Of integers, to the left or to the right."""

    def shifted(x: Any, by: Any) -> Any:
        last = int(kind(x).removeprefix("u").removeprefix("int")) - 1
        within = tirx.max(tirx.min(by, like(last, by)), like(0, by))
        inside = tirx.EQ(within, by)
        if direction == "left":
            return choose(inside, x << within, like(0, x))
        return choose(inside, x >> within, x >> like(last, x))

    return shifted


OPERATORS: dict[str, Converter] = {
    **both("add", elementwise(scaled(1), 2)),
    **both("sub", elementwise(scaled(-1), 2)),
    **both("mul", elementwise(times, 2)),
    **both("div", elementwise(divide, 2)),
    "div.Tensor_mode": elementwise(divide_rounded, 2),
    "div.Scalar_mode": elementwise(divide_rounded, 2),
    **both("remainder", elementwise(remainder, 2)),
    **both("fmod", elementwise(fmod, 2)),
    "exp2.default": elementwise(tirx.exp2, 1),
    **both("copysign", elementwise(tirx.copysign, 2)),
    "hypot.default": elementwise(tirx.hypot, 2),
    "nextafter.default": elementwise(tirx.nextafter, 2),
    "atan2.default": elementwise(tirx.atan2, 2),
    "pow.Tensor_Scalar": elementwise(lambda x, n: power_of(x, n.value), 2),
    "pow.Tensor_Tensor": elementwise(power, 2),
    "pow.Scalar": elementwise(power, 2),
    "bitwise_left_shift.Tensor": elementwise(shift("left"), 2),
    "bitwise_right_shift.Tensor": elementwise(shift("right"), 2),
}
