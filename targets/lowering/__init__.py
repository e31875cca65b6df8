"""Lowering of the integer graph: importing this package registers one function per primitive."""

from __future__ import annotations

from fxquant import primitives  # noqa: F401  they are lowered by name
from fxquant.targets.lowering import (
    choices,
    dynamic,
    elementwise,
    island,
    movement,
    pooling,
    products,
    reals,
    recurrent,
    resample,
    rows,
)
from fxquant.targets.lowering.lowering import LOWERINGS, Lowering, lower, lowers

__all__ = [
    "LOWERINGS",
    "Lowering",
    "choices",
    "dynamic",
    "elementwise",
    "island",
    "lower",
    "lowers",
    "movement",
    "pooling",
    "products",
    "reals",
    "recurrent",
    "resample",
    "rows",
]
