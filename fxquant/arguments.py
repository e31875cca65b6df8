"""The arguments of a call, by the names, the order and the defaults of its operator's schema.

A call may give an option by position, by keyword, or not at all, and it may be anybody's: the exporter's, a pass's, a
user's. So nobody looks at `node.args` or `node.kwargs` for an option: the readers here find it wherever it stands. Each
wants one kind of argument and says so. Where a graph is taken in, `settle` brings its calls into one form besides:

    rsub(%x, other=2.0, alpha=3), add(%x, %y, 2), max_pool2d(%x, 3)
      =>  rsub(%x, 2.0, 3), add(%x, %y, alpha=2), max_pool2d(%x, [3, 3])

so that the operands of an operator (`FloatOp.activations`) are where its schema has them.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cache
from typing import Any, NoReturn

import torch
from torch import fx

from fxquant.errors import ArgumentError
from fxquant.source import describe

# An argument by its place in the schema, or by its name there.
Where = int | str


def arguments(node: fx.Node) -> list[Any]:
    """All arguments of a call in the order of the schema, defaults for what it leaves out.

    A function without a schema has only positional ones. Raises ArgumentError where the operator takes no such call.
    """
    return list(_bound(node)[1].values())


def argument(node: fx.Node, where: Where) -> Any:
    """One argument, whatever it is; the schema's default where the call leaves it out."""
    found = _bound(node)[1]
    name = list(found)[where] if isinstance(where, int) and where < len(found) else where
    return found[name] if name in found else _refuse(node, where, None, "", "missing")


def settle(node: fx.Node) -> None:
    """Bring a call into the one form: by position what the schema has so, by keyword the rest, lists as lists.

    Raises ArgumentError where the operator takes no such call.
    """
    args, kwargs = _settled(node)
    if (args, kwargs) != (node.args, node.kwargs):
        node.args, node.kwargs = args, kwargs


def is_settled(node: fx.Node) -> bool:
    """Whether a call has the form that `settle` gives."""
    return node.op != "call_function" or (node.args, node.kwargs) == _settled(node)


def callee(node: fx.Node) -> Callable[..., Any]:
    """The function that a call calls."""
    if isinstance(node.target, str):
        raise ArgumentError(f"{describe(node)} calls no function")
    return node.target


def int_arg(node: fx.Node, where: Where) -> int:
    """An integer.

    Raises ArgumentError, as all readers do, when the argument is of another kind, or missing without a default.
    """
    found = argument(node, where)
    return found if isinstance(found, int) else _refuse(node, where, found, "an integer")


def int_args(node: fx.Node, *places: Where) -> list[int]:
    """Several integers."""
    return [int_arg(node, where) for where in places]


def float_arg(node: fx.Node, where: Where) -> float:
    """A number."""
    found = argument(node, where)
    return float(found) if isinstance(found, (int, float)) else _refuse(node, where, found, "a number")


def node_arg(node: fx.Node, where: Where) -> fx.Node:
    """A value of the graph."""
    found = argument(node, where)
    return found if isinstance(found, fx.Node) else _refuse(node, where, found, "a value of the graph")


def ints_arg(node: fx.Node, where: Where) -> list[int]:
    """A list of integers."""
    found = argument(node, where)
    if isinstance(found, (list, tuple)) and all(isinstance(n, int) for n in found):
        return list(found)
    _refuse(node, where, found, "a list of integers")


def nodes_arg(node: fx.Node, where: Where) -> list[fx.Node]:
    """A list of values of the graph."""
    found = argument(node, where)
    if isinstance(found, (list, tuple)) and all(isinstance(n, fx.Node) for n in found):
        return list(found)
    _refuse(node, where, found, "a list of values of the graph")


@cache
def _schema(operator: torch._ops.OpOverload) -> tuple[Any, ...]:
    return tuple(operator._schema.arguments)


def _bound(node: fx.Node) -> tuple[list[str], dict[str, Any]]:
    """The names that the call itself gives, and all arguments by name in the order of the schema."""
    if not isinstance(node.target, torch._ops.OpOverload):
        positional = {str(place): given for place, given in enumerate(node.args)}
        return list(positional), positional | node.kwargs
    schema = _schema(node.target)
    by_place = [a.name for a in schema if not a.kwarg_only]
    given = dict(zip(by_place, node.args, strict=False))
    wrong = [name for name in node.kwargs if name in given or all(a.name != name for a in schema)]
    if len(node.args) > len(by_place) or wrong:
        raise ArgumentError(f"{describe(node)} is not called as {node.target._schema} wants it: {_words(node, wrong)}")
    given |= node.kwargs
    found: dict[str, Any] = {}
    for a in schema:
        if a.name not in given and not a.has_default_value():
            raise ArgumentError(f"{describe(node)} is not called as {node.target._schema} wants it: no {a.name}")
        value = given.get(a.name, a.default_value)
        # One integer for each place of a list.
        found[a.name] = [value] * a.N if a.N and isinstance(value, int) else value
    return list(given), found


def _words(node: fx.Node, wrong: list[str]) -> str:
    return f"there is no room for {', '.join(wrong)}" if wrong else f"{len(node.args)} arguments are too many"


def _settled(node: fx.Node) -> tuple[tuple[Any, ...], dict[str, Any]]:
    if not isinstance(node.target, torch._ops.OpOverload):
        return node.args, node.kwargs
    given, found = _bound(node)
    by_place = [a.name for a in _schema(node.target) if not a.kwarg_only]
    last = max((place for place, name in enumerate(by_place) if name in given), default=-1)
    args = tuple(found.pop(name) for name in by_place[: last + 1])
    return args, {name: value for name, value in found.items() if name in given}


def _refuse(node: fx.Node, where: Where, found: object, wanted: str, what: str = "") -> NoReturn:
    raise ArgumentError(f"{describe(node)}: argument {where} is {what or f'{found!r}, not {wanted}'}")
