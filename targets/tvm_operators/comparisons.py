"""Comparisons, bounds and choices between elements.

A comparison with NaN is false, and so each choice below is written such that NaN takes the branch that keeps it.
TVM's own `!=`, minimum and maximum are not like that.
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx
from tvm import tirx

from fxquant.targets.tvm_operators.elementwise import Body, both, elementwise, is_float, like
from fxquant.targets.tvm_operators.operator import (
    Converter,
    Importer,
    cast,
    choose,
    compute,
    emit,
    fake,
    is_nan,
    number,
    read,
    settings,
)


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


def equal(x: Any, y: Any) -> Any:
    """TVM takes a number for equal to itself, which NaN is not."""
    return tirx.all(tirx.EQ(x, y), tirx.Not(is_nan(x)))


def differ(x: Any, y: Any) -> Any:
    """NaN differs from everything, itself included."""
    return tirx.any(tirx.NE(x, y), is_nan(x), is_nan(y))


def sign_bit(x: Any) -> Any:
    """Whether a number is below zero, or minus zero."""
    return tirx.copysign(like(1, x), x) < like(0, x) if is_float(x) else x < like(0, x)


def is_finite(x: Any) -> Any:
    """NaN is not below infinity either."""
    return tirx.abs(x) < like(float("inf"), x) if is_float(x) else tirx.const(True, "bool")


def where(node: fx.Node, importer: Importer) -> Any:
    """`where(condition, x, y)`: the condition alone keeps its type."""
    terms, dtype = settings(node), fake(node).dtype

    def function(*values: Any) -> Any:
        def element(*index: Any) -> Any:
            condition, x, y = (read(v, index) for v in values)
            return choose(cast(condition, torch.bool), cast(x, dtype), cast(y, dtype))

        return compute(node, element, "where")

    return emit(importer, function, *terms)


def full(node: fx.Node, importer: Importer) -> Any:
    """The same number everywhere; TVM's own knows no infinity."""
    value = number(settings(node)[1], fake(node).dtype)
    return emit(importer, lambda: compute(node, lambda *_: value, "full"))


OPERATORS: dict[str, Converter] = {
    **both("eq", elementwise(equal, 2, own_type=True)),
    **both("ne", elementwise(differ, 2, own_type=True)),
    **both("lt", elementwise(lambda x, y: x < y, 2, own_type=True)),
    **both("le", elementwise(lambda x, y: x <= y, 2, own_type=True)),
    **both("gt", elementwise(lambda x, y: x > y, 2, own_type=True)),
    **both("ge", elementwise(lambda x, y: x >= y, 2, own_type=True)),
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
    "where.self": where,
    "full.default": full,
    "isfinite.default": elementwise(is_finite, 1, own_type=True),
    "isnan.default": elementwise(is_nan, 1, own_type=True),
    "signbit.default": elementwise(sign_bit, 1, own_type=True),
}
