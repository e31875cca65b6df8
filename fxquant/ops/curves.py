"""Functions of one value: whatever the function, a table with an entry for each code, exactly rounded.

Chains of them become one table. At a pole (log 0, 1 / 0) the entry is the end of the range that was observed on that
side; where a function is no number at all (the root of a negative one), it is what the nearest code gives that has one.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.ops.arithmetic import chained
from fxquant.ops.spelling import Speller, Value
from fxquant.ops.table import FloatOp, Fusion, RangeRule, enter

aten = torch.ops.aten
INFINITY = float("inf")
QUARTER = math.pi / 2


@dataclass(frozen=True)
class _Curve:
    """A function of the argument at `operand`; its further arguments are constants.

    With `bounded`, results mostly fill the bounds.
    """

    name: str
    doc: str
    target: Any
    low: float = -INFINITY
    high: float = INFINITY
    bounded: bool = False
    has_poles: bool = False
    operand: int = 0

    def spell(self, s: Speller, node: fx.Node) -> Value:
        """One lookup, whatever the function."""
        before, after = node.args[: self.operand], node.args[self.operand + 1 :]

        def function(x: Tensor) -> Tensor:
            found: Tensor = self.target(*before, x, *after, **node.kwargs)
            return found

        return chained(s, node.args[self.operand], function)

    def bounds(self, node: fx.Node) -> tuple[float, float]:
        """The same for every call."""
        return self.low, self.high

    def record(self) -> FloatOp:
        """The curve in the terms of the op table."""
        rule = RangeRule.BOUNDED if self.bounded else RangeRule.OBSERVED
        return FloatOp(
            self.name,
            (self.target,),
            self.spell,
            self.doc,
            activations=(self.operand,),
            range=rule,
            fusion=Fusion.POINTWISE,
            bounds=self.bounds,
            has_poles=self.has_poles,
        )


_CURVES = (
    _Curve("sigmoid", "1 / (1 + e^-x), range [0, 1].", aten.sigmoid.default, 0.0, 1.0, bounded=True),
    _Curve("tanh", "Hyperbolic tangent, range [-1, 1].", aten.tanh.default, -1.0, 1.0, bounded=True),
    _Curve("hardsigmoid", "relu6(x + 3) / 6, range [0, 1].", aten.hardsigmoid.default, 0.0, 1.0, bounded=True),
    _Curve("hardswish", "x * relu6(x + 3) / 6.", aten.hardswish.default, -0.375),
    _Curve("silu", "x * sigmoid(x).", aten.silu.default, -0.2785),
    _Curve("gelu", "x * Phi(x), exact or by tanh.", aten.gelu.default, -0.171),
    _Curve("elu", "x above 0, alpha * (e^x - 1) below.", aten.elu.default),
    _Curve("selu", "The same with the two constants of self-normalizing networks.", aten.selu.default, -1.7581),
    _Curve("celu", "x above 0, alpha * (e^(x / alpha) - 1) below.", aten.celu.default),
    _Curve("leaky_relu", "x above 0, slope * x below.", aten.leaky_relu.default),
    _Curve("mish", "x * tanh(softplus(x)).", aten.mish.default, -0.309),
    _Curve("softplus", "log(1 + e^x).", aten.softplus.default, 0.0),
    _Curve("log_sigmoid", "-log(1 + e^-x).", aten.log_sigmoid.default, high=0.0),
    _Curve("hardshrink", "x, but 0 near 0.", aten.hardshrink.default),
    _Curve("softshrink", "x moved towards 0 by lambda, 0 where that would change its sign.", aten.softshrink.default),
    _Curve("threshold", "x above a threshold, a constant below.", aten.threshold.default),
    _Curve("exp", "e^x.", aten.exp.default, 0.0),
    _Curve("exp2", "2^x.", aten.exp2.default, 0.0),
    _Curve("expm1", "e^x - 1.", aten.expm1.default, -1.0),
    _Curve("log", "Natural logarithm.", aten.log.default, has_poles=True),
    _Curve("log2", "Logarithm to the base of 2.", aten.log2.default, has_poles=True),
    _Curve("log10", "Logarithm to the base of 10.", aten.log10.default, has_poles=True),
    _Curve("log1p", "log(1 + x).", aten.log1p.default, has_poles=True),
    _Curve("sqrt", "Square root.", aten.sqrt.default, 0.0),
    _Curve("rsqrt", "1 / sqrt(x).", aten.rsqrt.default, 0.0, has_poles=True),
    _Curve("reciprocal", "1 / x.", aten.reciprocal.default, has_poles=True),
    _Curve("square", "x^2.", aten.square.default, 0.0),
    _Curve("power", "x^n for a constant n.", aten.pow.Tensor_Scalar, has_poles=True),
    _Curve("exponential", "n^x for a constant n.", aten.pow.Scalar, operand=1),
    _Curve("erf", "Error function, range [-1, 1].", aten.erf.default, -1.0, 1.0, bounded=True),
    _Curve("erfc", "1 - erf(x), range [0, 2].", aten.erfc.default, 0.0, 2.0, bounded=True),
    _Curve("sin", "Sine, range [-1, 1].", aten.sin.default, -1.0, 1.0, bounded=True),
    _Curve("cos", "Cosine, range [-1, 1].", aten.cos.default, -1.0, 1.0, bounded=True),
    _Curve("tan", "Tangent.", aten.tan.default),
    _Curve("asin", "Inverse sine.", aten.asin.default, -QUARTER, QUARTER, bounded=True),
    _Curve("acos", "Inverse cosine.", aten.acos.default, 0.0, 2 * QUARTER, bounded=True),
    _Curve("atan", "Inverse tangent.", aten.atan.default, -QUARTER, QUARTER, bounded=True),
    _Curve("sinh", "Hyperbolic sine.", aten.sinh.default),
    _Curve("cosh", "Hyperbolic cosine.", aten.cosh.default, 1.0),
    _Curve("asinh", "Inverse hyperbolic sine.", aten.asinh.default),
    _Curve("acosh", "Inverse hyperbolic cosine.", aten.acosh.default, 0.0),
    _Curve("atanh", "Inverse hyperbolic tangent.", aten.atanh.default, has_poles=True),
    _Curve("logit", "log(x / (1 - x)).", aten.logit.default, has_poles=True),
    _Curve("neg", "-x.", aten.neg.default),
    _Curve("abs", "|x|.", aten.abs.default, 0.0),
    _Curve("sign", "-1, 0 or 1.", aten.sign.default, -1.0, 1.0, bounded=True),
    _Curve("floor", "The next whole number below.", aten.floor.default),
    _Curve("ceil", "The next whole number above.", aten.ceil.default),
    _Curve("round", "The nearest whole number, the even one of two.", aten.round.default),
    _Curve("trunc", "The next whole number towards 0.", aten.trunc.default),
    _Curve("frac", "x - trunc(x).", aten.frac.default, -1.0, 1.0),
    _Curve("remainder", "What division by a constant leaves, with its sign.", aten.remainder.Scalar),
    _Curve("fmod", "What division by a constant leaves, with the sign of x.", aten.fmod.Scalar),
)

for _curve in _CURVES:
    enter(_curve.record())
