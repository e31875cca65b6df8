"""Operators on single elements: torch's promotion of types, and NaN, infinity and signs as torch has them.

A comparison with NaN is false, and so each choice below is written such that NaN takes the branch that keeps it.
TVM's own `!=`, minimum and maximum are not like that.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import torch
from torch import fx
from tvm import tirx

from fxquant.targets.tvm_operators.operator import (
    Converter,
    Importer,
    cast,
    choose,
    compute,
    emit,
    fake,
    is_nan,
    kind,
    number,
    read,
    settings,
)

Body = Callable[..., Any]


def elementwise(body: Body, operands: int, *, own_type: bool = False) -> Converter:
    """`body(operands..., settings...)` for every element; operands are tensors, numbers or None.

    They are converted to the type of the result, or to their own common one (`own_type`): that is what predicates do.
    """

    def convert(node: fx.Node, importer: Importer) -> Any:
        given = settings(node)
        terms, rest = given[:operands], given[operands:]
        common = _common(terms) if own_type else fake(node).dtype
        tensors = list(dict.fromkeys(t for t in terms if isinstance(t, fx.Node)))

        def function(*values: Any) -> Any:
            place = dict(zip(tensors, values, strict=True))

            def element(*index: Any) -> Any:
                return cast(body(*(_term(t, place, index, common) for t in terms), *rest), fake(node).dtype)

            return compute(node, element, "elementwise")

        return emit(importer, function, *tensors)

    return convert


def _term(term: Any, place: Mapping[fx.Node, Any], index: tuple[Any, ...], dtype: torch.dtype) -> Any:
    if isinstance(term, fx.Node):
        return cast(read(place[term], index), dtype)
    return None if term is None else number(term, dtype)


def _common(terms: list[Any]) -> torch.dtype:
    values = [fake(t) if isinstance(t, fx.Node) else t for t in terms if t is not None]
    found: torch.dtype = values[0].dtype
    for value in values[1:]:
        found = torch.result_type(values[0], value)
    return found


def like(value: float, other: Any) -> Any:
    """A number of the type of an expression."""
    return tirx.const(value, kind(other))


def is_float(value: Any) -> bool:
    """Whether an expression is of a floating-point type."""
    return kind(value).startswith("float")


def relu(x: Any) -> Any:
    """Zero below zero."""
    return choose(x <= like(0, x), like(0, x), x)


def at_least(x: Any, low: Any) -> Any:
    """The larger one, NaN if either is."""
    return choose(tirx.any(x > low, is_nan(x)), x, low)


def at_most(x: Any, high: Any) -> Any:
    """The smaller one, NaN if either is."""
    return choose(tirx.any(x < high, is_nan(x)), x, high)


def clamp(x: Any, low: Any, high: Any) -> Any:
    """Where the bounds are the wrong way round, the upper one holds."""
    x = x if low is None else at_least(x, low)
    return x if high is None else at_most(x, high)


def but_nan(better: Body) -> Body:
    """`fmax` and `fmin`: the number where one of both is NaN."""
    return lambda x, y: choose(is_nan(y), x, choose(is_nan(x), y, better(x, y)))


def differ(x: Any, y: Any) -> Any:
    """NaN differs from everything, itself included."""
    return tirx.any(tirx.NE(x, y), is_nan(x), is_nan(y))


def elu(x: Any, alpha: float, scale: float, input_scale: float) -> Any:
    """Also celu and selu, by their scales."""
    grown = like(alpha * scale, x) * (tirx.exp(x * like(input_scale, x)) - like(1, x))
    return choose(x <= like(0, x), grown, x * like(scale, x))


def error_function(x: Any) -> Any:
    """TVM's approximation leaves -1 ... 1 by a digit, which infinity would make much of."""
    return at_most(at_least(tirx.erf(x), like(-1, x)), like(1, x))


def softshrink(x: Any, threshold: float) -> Any:
    """Nearer to zero by the threshold, and zero within it."""
    t = like(threshold, x)
    inside = choose(is_nan(x), x, like(0, x))
    return choose(x > t, x - t, choose(x < -t, x + t, inside))


def equal(x: Any, y: Any) -> Any:
    """TVM takes a number for equal to itself, which NaN is not."""
    return tirx.all(tirx.EQ(x, y), tirx.Not(is_nan(x)))


def times(x: Any, y: Any) -> Any:
    """Of truths: both."""
    return tirx.all(x, y) if kind(x) == "bool" else x * y


def gelu(x: Any, approximate: str) -> Any:
    """By the error function, or by tanh."""
    half, one = like(0.5, x), like(1, x)
    if approximate == "none":
        return x * half * (one + error_function(x * like(0.5**0.5, x)))
    inner = like((2 / torch.pi) ** 0.5, x) * (x + like(0.044715, x) * x * x * x)
    return half * x * (one + tirx.tanh(inner))


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


def sign_bit(x: Any) -> Any:
    """Whether a number is below zero, or minus zero."""
    return tirx.copysign(like(1, x), x) < like(0, x) if is_float(x) else x < like(0, x)


def is_finite(x: Any) -> Any:
    """NaN is not below infinity either."""
    return tirx.abs(x) < like(float("inf"), x) if is_float(x) else tirx.const(True, "bool")


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


def scaled(sign: int) -> Body:
    """`x + alpha y`, or minus."""

    def body(x: Any, y: Any, alpha: float = 1) -> Any:
        if kind(x) == "bool":
            return tirx.any(x, tirx.all(y, tirx.const(bool(alpha), "bool")))
        return x + y if sign * alpha == 1 else x - y if sign * alpha == -1 else x + y * like(sign * alpha, x)

    return body


def where(node: fx.Node, importer: Importer) -> Any:
    """`where(condition, x, y)`: the condition alone keeps its type."""
    terms, dtype = settings(node), fake(node).dtype

    def function(*values: Any) -> Any:
        def element(*index: Any) -> Any:
            condition, x, y = (read(v, index) for v in values)
            return choose(cast(condition, torch.bool), cast(x, dtype), cast(y, dtype))

        return compute(node, element, "where")

    return emit(importer, function, *terms)


def _both(name: str, converter: Converter) -> dict[str, Converter]:
    return dict.fromkeys((f"{name}.Tensor", f"{name}.Scalar"), converter)


OPERATORS: dict[str, Converter] = {
    **_both("add", elementwise(scaled(1), 2)),
    **_both("sub", elementwise(scaled(-1), 2)),
    **_both("mul", elementwise(times, 2)),
    **_both("div", elementwise(divide, 2)),
    "div.Tensor_mode": elementwise(divide_rounded, 2),
    "div.Scalar_mode": elementwise(divide_rounded, 2),
    **_both("remainder", elementwise(remainder, 2)),
    **_both("fmod", elementwise(fmod, 2)),
    **_both("eq", elementwise(equal, 2, own_type=True)),
    **_both("ne", elementwise(differ, 2, own_type=True)),
    **_both("lt", elementwise(lambda x, y: x < y, 2, own_type=True)),
    **_both("le", elementwise(lambda x, y: x <= y, 2, own_type=True)),
    **_both("gt", elementwise(lambda x, y: x > y, 2, own_type=True)),
    **_both("ge", elementwise(lambda x, y: x >= y, 2, own_type=True)),
    "maximum.default": elementwise(at_least, 2),
    "minimum.default": elementwise(at_most, 2),
    "fmax.default": elementwise(but_nan(at_least), 2),
    "fmin.default": elementwise(but_nan(at_most), 2),
    "clamp.default": elementwise(clamp, 3),
    "clamp.Tensor": elementwise(clamp, 3),
    "clamp_min.default": elementwise(lambda x, low: clamp(x, low, None), 2),
    "clamp_min.Tensor": elementwise(lambda x, low: clamp(x, low, None), 2),
    "clamp_max.default": elementwise(lambda x, high: clamp(x, None, high), 2),
    "clamp_max.Tensor": elementwise(lambda x, high: clamp(x, None, high), 2),
    "hardtanh.default": elementwise(clamp, 3),
    "relu.default": elementwise(relu, 1),
    "elu.default": elementwise(elu, 1),
    "erf.default": elementwise(error_function, 1),
    "softshrink.default": elementwise(softshrink, 1),
    "where.self": where,
    "gelu.default": elementwise(gelu, 1),
    "exp2.default": elementwise(tirx.exp2, 1),
    "erfc.default": elementwise(lambda x: like(1, x) - error_function(x), 1),
    "isfinite.default": elementwise(is_finite, 1, own_type=True),
    "isnan.default": elementwise(is_nan, 1, own_type=True),
    "signbit.default": elementwise(sign_bit, 1, own_type=True),
    **_both("copysign", elementwise(tirx.copysign, 2)),
    "hypot.default": elementwise(tirx.hypot, 2),
    "nextafter.default": elementwise(tirx.nextafter, 2),
    "atan2.default": elementwise(tirx.atan2, 2),
    "pow.Tensor_Scalar": elementwise(lambda x, n: power_of(x, n.value), 2),
    "pow.Tensor_Tensor": elementwise(power, 2),
    "pow.Scalar": elementwise(power, 2),
    "bitwise_left_shift.Tensor": elementwise(shift("left"), 2),
    "bitwise_right_shift.Tensor": elementwise(shift("right"), 2),
}
