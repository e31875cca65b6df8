"""Operators for which TVM's PyTorch converter is not what torch computes, written as tensor expressions."""

from __future__ import annotations

from fxquant.targets.tvm_operators import (
    activations,
    arithmetic,
    comparisons,
    indexing,
    reductions,
    resample,
    scans,
    windows,
)
from fxquant.targets.tvm_operators.operator import Converter

OPERATORS: dict[str, Converter] = {
    **arithmetic.OPERATORS,
    **comparisons.OPERATORS,
    **activations.OPERATORS,
    **reductions.OPERATORS,
    **windows.OPERATORS,
    **indexing.OPERATORS,
    **scans.OPERATORS,
    **resample.OPERATORS,
}
