"""Operators on elements: activations, arithmetic, comparisons, conversions."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor

from tests.targets.islands.sweep import Case

aten = torch.ops.aten

X, Y = torch.randn(2, 3, 4, 6), torch.randn(4, 6)
COUNTS, J = torch.arange(-6, 6).reshape(3, 4), torch.tensor([[3, 1, -2, 5]])

_UNARY = (
    "abs acos acosh angle asin asinh atan atanh ceil cos cosh deg2rad digamma erf erfc erfinv exp exp2 expm1 "
    "floor frac i0 isfinite isinf isnan isneginf isposinf lgamma log log10 log1p log2 logical_not logit neg "
    "nan_to_num rad2deg reciprocal relu round rsqrt sgn sigmoid sign signbit sin sinc sinh sqrt square tan "
    "tanh trunc"
).split()
_ACTIVATIONS = (
    "celu elu gelu hardshrink hardsigmoid hardswish hardtanh leaky_relu logsigmoid mish relu6 selu silu softplus "
    "softshrink softsign tanhshrink"
).split()
_BINARY = (
    "add atan2 copysign div eq floor_divide fmax fmin fmod ge gt heaviside hypot le logaddexp logaddexp2 logical_and "
    "logical_or logical_xor lt maximum minimum mul ne nextafter pow remainder sub xlogy"
).split()
_WITH_NUMBERS = "add copysign div eq floor_divide fmod ge gt le lt mul ne pow remainder sub xlogy".split()
_INTEGERS = "add div eq floor_divide fmod ge gt le lt maximum minimum mul ne remainder sub".split()
_BITS = "bitwise_and bitwise_or bitwise_xor".split()


def _generated() -> Iterator[Case]:
    for name in _UNARY:
        yield Case(f"unary/{name}", getattr(torch, name), (X,))
    for name in _ACTIVATIONS:
        yield Case(f"activation/{name}", getattr(F, name), (X,), special=name != "gelu")
    for name in _BINARY:
        yield Case(f"binary/{name}", getattr(torch, name), (X, Y))
    for name in _WITH_NUMBERS:
        yield Case(f"number/{name}", _second(name, 2.5), (X,))
        yield Case(f"integer-number/{name}", _second(name, 3), (COUNTS,))
    for name in _INTEGERS:
        yield Case(f"integer/{name}", getattr(torch, name), (COUNTS, J))
    for name in _BITS:
        yield Case(f"bits/{name}", getattr(torch, name), (COUNTS, J))
        yield Case(f"bits/{name}-of-bool", getattr(torch, name), (COUNTS > 0, J > 0))


def _second(name: str, number: float) -> Callable[[Tensor], Any]:
    """An operator with a number for its second operand."""
    function = getattr(torch, name)
    return lambda x: function(x, number)


def _where_written(x: Tensor) -> Tensor:
    found = x.clone()
    found[found < 0] = 0.5
    return found


CASES = [
    *_generated(),
    Case("activation/gelu-tanh", lambda x: F.gelu(x, approximate="tanh"), (X,), special=False),
    Case("activation/elu-alpha", lambda x: F.elu(x, alpha=2.0), (X,)),
    Case("activation/celu-alpha", lambda x: F.celu(x, alpha=2.0), (X,)),
    Case("activation/softplus-beta", lambda x: F.softplus(x, beta=2.0, threshold=3), (X,)),
    Case("activation/leaky-slope", lambda x: F.leaky_relu(x, 0.3), (X,)),
    Case("activation/threshold", lambda x: F.threshold(x, 0.3, -2), (X,)),
    Case("activation/prelu", F.prelu, (X, torch.rand(3))),
    Case("activation/prelu-one", F.prelu, (X, torch.rand(1))),
    Case("activation/glu", lambda x: F.glu(x, -1), (X,)),
    Case("activation/rrelu", F.rrelu, (X,)),
    Case("clamp/both", lambda x: x.clamp(-0.5, 0.5), (X,)),
    Case("clamp/wrong-way-round", lambda x: x.clamp(1, -1), (X,)),
    Case("clamp/low", lambda x: x.clamp(min=-0.5), (X,)),
    Case("clamp/high", lambda x: x.clamp(max=-0.5), (X,)),
    Case("clamp/tensors", torch.clamp, (X, Y, Y + 1)),
    Case("clamp/integers", lambda x: x.clamp(-3, 5), (COUNTS,)),
    Case("rounding/decimals", lambda x: torch.round(x, decimals=2), (X,)),
    Case("rounding/nan-to-num", lambda x: torch.nan_to_num(x, 1.0, 2.0, 3.0), (X,)),
    Case("alpha/add", lambda x, y: torch.add(x, y, alpha=2), (X, Y)),
    Case("alpha/sub", lambda x, y: torch.sub(x, y, alpha=2), (X, Y)),
    Case("alpha/rsub", lambda x, y: torch.rsub(x, y, alpha=2), (X, Y)),
    Case("alpha/rsub-number", lambda x: torch.rsub(x, 2.0, alpha=3), (X,)),
    Case("alpha/both-broadcast", lambda x, y: torch.add(x, y, alpha=2), (torch.randn(4, 1), torch.randn(1, 8))),
    Case("divide/floor", lambda x, y: torch.div(x, y, rounding_mode="floor"), (X, Y)),
    Case("divide/trunc", lambda x, y: torch.div(x, y, rounding_mode="trunc"), (X, Y)),
    Case("divide/floor-integers", lambda x, y: torch.div(x, y, rounding_mode="floor"), (COUNTS, J)),
    Case("divide/trunc-integers", lambda x, y: torch.div(x, y, rounding_mode="trunc"), (COUNTS, J)),
    *(Case(f"power/{n}", lambda x, n=n: x**n, (X,)) for n in (-2, -1, -0.5, 0, 0.5, 1, 2, 3, 4, 2.5)),
    Case("power/of-number", lambda x: 2.0**x, (X,)),
    Case("power/integers", lambda x: x**3, (COUNTS,)),
    Case("power/integers-computed", torch.pow, (COUNTS, J.abs())),
    Case("bits/not", torch.bitwise_not, (COUNTS,)),
    Case("bits/not-of-bool", torch.bitwise_not, (COUNTS > 0,)),
    Case("bits/left-shift", torch.bitwise_left_shift, (COUNTS, J.abs())),
    Case("bits/right-shift", torch.bitwise_right_shift, (COUNTS, J.abs())),
    Case("blend/lerp", lambda x, y: torch.lerp(x, y, 0.3), (X, X + 1)),
    Case("blend/lerp-tensor", torch.lerp, (X, X + 1, X - 1)),
    Case("blend/addcmul", lambda x, y, z: torch.addcmul(x, y, z, value=0.3), (X, X, X)),
    Case("blend/addcdiv", lambda x, y, z: torch.addcdiv(x, y, z, value=0.3), (X, X, X)),
    Case("choose/where", lambda x, y, z: torch.where(x > 0, y, z), (X, X, X)),
    Case("choose/where-number", lambda x, y: torch.where(x > 0, y, 0.0), (X, X)),
    Case("choose/masked-fill", lambda x, y: x.masked_fill(y > 0, float("-inf")), (X, X)),
    Case("choose/written-by-mask", _where_written, (X,)),
    Case("type/to-integers", lambda x: (x * 10).to(torch.int64), (X,), special=False),
    Case("type/to-bool", lambda x: x.to(torch.bool), (X,)),
    Case("type/to-double", lambda x: x.to(torch.float64), (X,)),
    Case("type/from-integers", lambda x: x.to(torch.float32), (COUNTS,)),
    Case("type/half", lambda x: x.to(torch.float16).to(torch.float32), (X,)),
    Case("type/brain-float", lambda x: x.to(torch.bfloat16).to(torch.float32), (X,)),
    Case("random/dropout", lambda x: F.dropout(x, 0.5, True), (X,)),
    Case("random/uniform", torch.rand_like, (X,)),
    Case("complex/product", lambda x, y: torch.view_as_real(torch.complex(x, y) * torch.complex(y, x)), (X, X)),
]
