"""Sizes in a graph file: integers, the names of free sizes, and a little arithmetic as nested lists.

    3    "n0"    ["*", "n0", 49]    ["+", ["//", "n1", 2], 1]

What is read is only ever walked, never parsed or evaluated as a program.
"""

from __future__ import annotations

import operator
from collections.abc import Callable, Mapping
from functools import reduce
from typing import Any

import torch

# A size as JSON; None where the file does not say it.
Size = int | str | list[Any] | None

_DEEPEST, _LONGEST, _LARGEST = 16, 16, 1 << 62
_OPERATIONS: dict[str, Callable[[Any, Any], Any]] = {
    "+": operator.add,
    "*": operator.mul,
    "//": operator.floordiv,
    "%": operator.mod,
    "max": torch.sym_max,
    "min": torch.sym_min,
}
# How torch calls them.
_SPELLED = {"Add": "+", "Mul": "*", "FloorDiv": "//", "CleanDiv": "//", "Mod": "%", "PythonMod": "%"} | {
    "Max": "max",
    "Min": "min",
}


def written(size: int | torch.SymInt, names: Mapping[str, str]) -> Size:
    """A size as JSON, its symbols called as `names` says; None for one that this grammar has no words for."""
    return _written(size.node.expr, names) if isinstance(size, torch.SymInt) else int(size)


def _written(expression: Any, names: Mapping[str, str]) -> Size:
    if expression.is_Integer:
        return int(expression)
    if expression.is_Symbol:
        return names.get(str(expression))
    kind, operands = type(expression).__name__, list(expression.args)
    if kind == "Pow" and operands[1].is_Integer and 1 < operands[1] <= 4:
        kind, operands = "Mul", [operands[0]] * int(operands[1])
    parts = [_written(operand, names) for operand in operands]
    if kind not in _SPELLED or None in parts or len(parts) > _LONGEST:
        return None
    return [_SPELLED[kind], *parts]


def computed(size: Any, values: Mapping[str, Any], depth: int = 0) -> Any:
    """What a size is, given those of its names, as numbers or as symbols. ValueError for what is no size."""
    if isinstance(size, str) and size in values:
        return values[size]
    if type(size) is int and abs(size) < _LARGEST:
        return size
    if not isinstance(size, list) or not 2 < len(size) <= _LONGEST + 1 or depth > _DEEPEST:
        raise ValueError(f"{str(size)[:80]!r} is no size")
    operation = _OPERATIONS.get(size[0]) if isinstance(size[0], str) else None
    if operation is None:
        raise ValueError(f"{str(size[0])[:80]!r} is no operation on sizes")
    operands = [computed(operand, values, depth + 1) for operand in size[1:]]
    if size[0] in ("//", "%") and any(isinstance(n, int) and n == 0 for n in operands[1:]):
        raise ValueError("a size is divided by zero")
    return reduce(operation, operands)
