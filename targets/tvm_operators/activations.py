"""Activations, which keep NaN: each choice is written such that NaN takes the branch that does."""

from __future__ import annotations

from typing import Any

import torch
from tvm import tirx

from fxquant.targets.tvm_operators.comparisons import at_least, at_most
from fxquant.targets.tvm_operators.elementwise import elementwise, like
from fxquant.targets.tvm_operators.operator import Converter, choose, is_nan


def relu(x: Any) -> Any:
    """Zero below zero."""
    return choose(x <= like(0, x), like(0, x), x)


def elu(x: Any, alpha: float, scale: float, input_scale: float) -> Any:
    """Also celu and selu, by their scales."""
    grown = like(alpha * scale, x) * (tirx.exp(x * like(input_scale, x)) - like(1, x))
    return choose(x <= like(0, x), grown, x * like(scale, x))


def softshrink(x: Any, threshold: float) -> Any:
    """Nearer to zero by the threshold, and zero within it."""
    t = like(threshold, x)
    inside = choose(is_nan(x), x, like(0, x))
    return choose(x > t, x - t, choose(x < -t, x + t, inside))


def gelu(x: Any, approximate: str) -> Any:
    """By the error function, or by tanh."""
    half, one = like(0.5, x), like(1, x)
    if approximate == "none":
        return x * half * (one + error_function(x * like(0.5**0.5, x)))
    inner = like((2 / torch.pi) ** 0.5, x) * (x + like(0.044715, x) * x * x * x)
    return half * x * (one + tirx.tanh(inner))


def error_function(x: Any) -> Any:
    """TVM's approximation leaves -1 ... 1 by a digit, which infinity would make much of."""
    return at_most(at_least(tirx.erf(x), like(-1, x)), like(1, x))


OPERATORS: dict[str, Converter] = {
    "relu.default": elementwise(relu, 1),
    "elu.default": elementwise(elu, 1),
    "erf.default": elementwise(error_function, 1),
    "softshrink.default": elementwise(softshrink, 1),
    "gelu.default": elementwise(gelu, 1),
    "erfc.default": elementwise(lambda x: like(1, x) - error_function(x), 1),
}
