"""One record per float operator that has an integer spelling; importing this package fills the table."""

from __future__ import annotations

from fxquant.ops import (
    activation,
    arithmetic,
    boolean,
    choices,
    curves,
    movement,
    normalize,
    pooling,
    products,
    recurrent,
    resample,
    widths,
)
from fxquant.ops.table import TABLE, FloatOp, Fusion, RangeRule, float_op, lookup

__all__ = [
    "TABLE",
    "FloatOp",
    "Fusion",
    "RangeRule",
    "activation",
    "arithmetic",
    "boolean",
    "choices",
    "curves",
    "float_op",
    "lookup",
    "movement",
    "normalize",
    "pooling",
    "products",
    "recurrent",
    "resample",
    "widths",
]
