"""What a converter takes and gives: a node of an exported program, and Relax values that stand for tensors.

Shapes and types of results are those that torch found for the node; TVM's own inference is not asked.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

import torch
from torch import fx
from tvm import relax, te, tirx

# TVM has no annotations: to a type checker its classes are like all else of it.
Importer: TypeAlias = Any
Converter = Callable[[fx.Node, Importer], Any]
Index = Sequence[Any]


def type_of(dtype: torch.dtype) -> str:
    """'float32', 'int64', 'bool', ..."""
    return str(dtype).removeprefix("torch.")


def fake(node: fx.Node) -> torch.Tensor:
    """The value of a node, or the first one of several."""
    value = node.meta["val"]
    found: torch.Tensor = value if isinstance(value, torch.Tensor) else value[0]
    return found


def shape(node: fx.Node) -> tuple[int, ...]:
    """The sizes of a node's value."""
    return tuple(int(n) for n in fake(node).shape)


def settings(node: fx.Node) -> list[Any]:
    """The arguments of a call in the order of its schema, with what torch takes for those that are not given."""
    found = []
    for position, argument in enumerate(node.target._schema.arguments):  # type: ignore[union-attr]
        if position < len(node.args):
            found.append(node.args[position])
        else:
            found.append(node.kwargs.get(argument.name, argument.default_value))
    return found


def emit(importer: Importer, function: Callable[..., Any], *operands: fx.Node) -> Any:
    """A call of what `function` computes from te tensors."""
    return importer.block_builder.emit_te(function, *(importer.env[n] for n in operands))


def compute(node: fx.Node, body: Callable[..., Any], name: str) -> Any:
    """A te tensor of the node's shape."""
    return te.compute(shape(node), body, name=name)


def read(tensor: Any, index: Index) -> Any:
    """The element that is broadcast to `index`."""
    own = list(index)[len(index) - len(tensor.shape) :]
    return tensor(*(0 if int(n) == 1 else i for i, n in zip(own, tensor.shape, strict=True)))


def kind(value: Any) -> str:
    """The type of an expression: 'float32', 'int64', 'bool', ..."""
    return str(value.ty)


def cast(value: Any, dtype: torch.dtype) -> Any:
    """As torch converts numbers: whatever is not zero is true."""
    wanted = type_of(dtype)
    if kind(value) == wanted:
        return value
    if wanted == "bool":
        return tirx.any(tirx.NE(value, tirx.const(0, kind(value))), is_nan(value))
    return value.astype(wanted)


def number(value: float, dtype: torch.dtype) -> Any:
    """A constant of a type."""
    return tirx.const(value if dtype.is_floating_point else int(value), type_of(dtype))


def is_nan(value: Any) -> Any:
    """Whether a float is none; no integer is."""
    return tirx.isnan(value) if kind(value).startswith("float") else tirx.const(False, "bool")


def choose(condition: Any, yes: Any, no: Any) -> Any:
    """`yes` where the condition is true."""
    return tirx.Select(condition, yes, no)


__all__ = ["Any", "Converter", "Importer", "Index", "relax", "te", "tirx"]
