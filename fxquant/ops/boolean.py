"""What is computed from booleans and from bytes: they are integers already, and a lookup gives the codes."""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant.arguments import argument, float_arg, node_arg
from fxquant.ops.choices import BOOLEAN
from fxquant.ops.spelling import Int, Pointwise, Speller
from fxquant.ops.table import Fusion, RangeRule, float_op
from fxquant.qparams import QParams

aten = torch.ops.aten


def _choices(node: fx.Node) -> tuple[float, float]:
    """What false and true stand for."""
    return (0.0, 1.0) if node.target is aten._to_copy.default else (float_arg(node, "other"), float_arg(node, "self"))


def _source(node: fx.Node) -> fx.Node:
    return node_arg(node, "self" if node.target is aten._to_copy.default else "condition")


def _is_of_bytes(node: fx.Node) -> bool:
    return node.target is aten._to_copy.default and _source(node).meta["val"].dtype in (torch.uint8, torch.int8)


def _ends(node: fx.Node) -> tuple[float, float]:
    if _is_of_bytes(node):
        kind = torch.iinfo(_source(node).meta["val"].dtype)
        return float(kind.min), float(kind.max)
    return min(_choices(node)), max(_choices(node))


def _of_a_boolean(node: fx.Node) -> str | None:
    if _is_of_bytes(node):
        return None
    if _source(node).meta["val"].dtype is not torch.bool:
        return "its operand is not boolean"
    numbers: list[Any] = [] if node.target is aten._to_copy.default else [argument(node, n) for n in ("self", "other")]
    return None if all(isinstance(n, (int, float)) for n in numbers) else "it chooses between computed values"


@float_op(
    aten.where.Scalar,
    aten._to_copy.default,
    activations=(),
    range=RangeRule.KNOWN,
    fusion=Fusion.POINTWISE,
    bounds=_ends,
    refuses=_of_a_boolean,
)
def choice(s: Speller, node: fx.Node) -> Pointwise:
    """One of two numbers for a boolean, or the number that a byte is: a lookup."""
    if _is_of_bytes(node):
        kind = torch.iinfo(_source(node).meta["val"].dtype)
        return Pointwise(Int(_source(node), QParams.tensor(1.0, 0, kind.min, kind.max)), lambda x: x)
    no, yes = _choices(node)
    return Pointwise(Int(_source(node), BOOLEAN), lambda x: torch.where(x > 0.5, yes, no).double())
