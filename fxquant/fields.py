"""Fields of frozen records, checked against their own annotations: a wrong type is told where it is written."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import fields
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Union, get_args, get_origin, get_type_hints


def check_fields(record: Any, where: str, error: Callable[[str], Exception]) -> None:
    """Raise `error` for the first field of a dataclass whose value is not of its annotated type.

    Booleans are no numbers, text is no boolean, and a float is finite.
    """
    kind_of_record: Any = type(record)  # mypy takes no type[Any] for hashable
    for name, kind in _kinds(kind_of_record):
        value = getattr(record, name)
        if not _is_of(kind, value):
            raise error(f"{where}: {name} must be {_words(kind)}, not {value!r}")


@cache
def _kinds(kind: Any) -> list[tuple[str, Any]]:
    hints = get_type_hints(kind)
    return [(field.name, hints[field.name]) for field in fields(kind)]


def _is_of(kind: Any, value: Any) -> bool:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        return any(_is_of(one, value) for one in inner)
    if origin is tuple:
        return isinstance(value, tuple) and all(_is_of(inner[0], one) for one in value)
    if kind in (int, float):
        if isinstance(value, bool) or not isinstance(value, Integral if kind is int else Real):
            return False
        return math.isfinite(value)
    return isinstance(value, kind)


def _words(kind: Any) -> str:
    inner = get_args(kind)
    if get_origin(kind) in (Union, UnionType):
        return " or ".join(_words(one) for one in inner)
    if get_origin(kind) is tuple:
        return f"a tuple of {inner[0].__name__} records"
    known = {bool: "True or False", int: "a whole number", float: "a finite number", str: "text", NoneType: "None"}
    return known.get(kind, f"a {kind.__name__}")
