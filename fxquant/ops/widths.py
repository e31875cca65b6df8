"""The border between 16 and 8 bits inside a graph: a value that some readers take in 16 bits and others in 8."""

from __future__ import annotations

import torch
from torch import fx

from fxquant.ops.spelling import Speller, Value
from fxquant.ops.table import float_op

aten = torch.ops.aten


@float_op(aten.alias.default)
def narrowed(s: Speller, node: fx.Node) -> Value:
    """The same value with another range and other bits: one requantization. Passes put it there, models never."""
    return s.sum_(node.args[0])
