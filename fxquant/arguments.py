"""The arguments of a call by kind. To torch.fx an argument may be anything; each reader wants one kind and says so."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NoReturn

from torch import fx

from fxquant.errors import ArgumentError
from fxquant.source import describe


def arguments(node: fx.Node, *defaults: Any) -> list[Any]:
    """Positional arguments of a call, the missing trailing ones from `defaults` (one per argument)."""
    return [*node.args, *defaults[len(node.args) :]]


def callee(node: fx.Node) -> Callable[..., Any]:
    """The function that a call calls."""
    if isinstance(node.target, str):
        raise ArgumentError(f"{describe(node)} calls no function")
    return node.target


def int_arg(node: fx.Node, position: int, default: int | None = None) -> int:
    """The integer at `position`, or `default` where the call leaves it out.

    Raises ArgumentError, as all readers do, when the argument is of another kind, or missing without a default.
    """
    found = _argument(node, position, default)
    return found if isinstance(found, int) else _refuse(node, position, found, "an integer")


def int_args(node: fx.Node, *positions: int) -> list[int]:
    """The integers at several positions."""
    return [int_arg(node, position) for position in positions]


def float_arg(node: fx.Node, position: int, default: float | None = None) -> float:
    """The number at `position`, or `default`."""
    found = _argument(node, position, default)
    return float(found) if isinstance(found, (int, float)) else _refuse(node, position, found, "a number")


def node_arg(node: fx.Node, position: int) -> fx.Node:
    """The value of the graph at `position`."""
    found = _argument(node, position)
    return found if isinstance(found, fx.Node) else _refuse(node, position, found, "a value of the graph")


def ints_arg(node: fx.Node, position: int) -> list[int]:
    """The list of integers at `position`."""
    found = _argument(node, position)
    if isinstance(found, (list, tuple)) and all(isinstance(n, int) for n in found):
        return list(found)
    _refuse(node, position, found, "a list of integers")


def nodes_arg(node: fx.Node, position: int) -> list[fx.Node]:
    """The list of values of the graph at `position`."""
    found = _argument(node, position)
    if isinstance(found, (list, tuple)) and all(isinstance(n, fx.Node) for n in found):
        return list(found)
    _refuse(node, position, found, "a list of values of the graph")


def _argument(node: fx.Node, position: int, default: object = None) -> object:
    return node.args[position] if position < len(node.args) else default


def _refuse(node: fx.Node, position: int, found: object, wanted: str) -> NoReturn:
    what = "missing" if position >= len(node.args) else f"{found!r}, not {wanted}"
    raise ArgumentError(f"{describe(node)}: argument {position} is {what}")
