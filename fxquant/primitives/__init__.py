"""The integer instruction set: every integer meaning is spelled in these primitives; their bodies are the reference.

A primitive is a torch custom op `torch.ops.fxq.<name>`; data movement (reshape, permute, slice, concat) is plain ATen
on integer tensors.
"""

from __future__ import annotations

from fxquant.primitives import (
    borders,
    dynamic,
    normalize,
    packing,
    pooling,
    products,
    real,
    recurrent,
    resample,
    rescale,
)
from fxquant.primitives.registry import FACTS, PRIMITIVES, primitive, primitives_with

__all__ = [
    "FACTS",
    "PRIMITIVES",
    "borders",
    "dynamic",
    "normalize",
    "packing",
    "pooling",
    "primitive",
    "primitives_with",
    "products",
    "real",
    "recurrent",
    "resample",
    "rescale",
]
