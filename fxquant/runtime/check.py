"""Checks of values that come from elsewhere: the value, or an `ArtifactError` that names and shows it."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from math import inf
from typing import Any

from fxquant.errors import ArtifactError

LONGEST_TEXT = 1000
_SHOWN = 60  # characters of a value in a message


def shown(value: object) -> str:
    """A value for a message, cut short: it may be megabytes."""
    if isinstance(value, (list, tuple, dict)):
        return f"a {type(value).__name__} of {len(value)}"
    if isinstance(value, int) and abs(value) >> 200:
        return f"an integer of {value.bit_length()} bits"
    text = repr(value[: _SHOWN + 1] if isinstance(value, (str, bytes)) else value)
    return text if len(text) <= _SHOWN else f"{text[:_SHOWN]}..."


def whole(what: str, value: Any, low: int, high: int) -> int:
    """An integer from `low` to `high`."""
    if type(value) is not int or not low <= value <= high:
        raise ArtifactError(f"{what} is {shown(value)}, not an integer from {low} to {high}")
    return value


def count(what: str, value: Any, most: int) -> int:
    """An integer from 0 to `most`."""
    return whole(what, value, 0, most)


def positive(what: str, value: Any) -> float:
    """A finite number above 0."""
    if type(value) not in (int, float) or not 0 < value < inf:
        raise ArtifactError(f"{what} is {shown(value)}, not a positive number")
    return float(value)


def text(what: str, value: Any) -> str:
    """A text that can be printed on one line."""
    if not isinstance(value, str) or len(value) > LONGEST_TEXT or not value.isprintable():
        raise ArtifactError(f"{what} is {shown(value)}, not a text of up to {LONGEST_TEXT} printable characters")
    return value


def choice(what: str, value: Any, known: Collection[str]) -> str:
    """One of the `known` texts."""
    if not isinstance(value, str) or value not in known:
        raise ArtifactError(f"{what} is {shown(value)}; known are {', '.join(known)}")
    return value


def items(what: str, value: Any) -> tuple[Any, ...]:
    """A tuple."""
    if not isinstance(value, tuple):
        raise ArtifactError(f"{what} is {shown(value)}, not a sequence of values")
    return value


def mapping(what: str, value: Any) -> Mapping[str, Any]:
    """A mapping with texts as keys."""
    if not isinstance(value, Mapping):
        raise ArtifactError(f"{what} is {shown(value)}, not a mapping")
    for key in value:
        text(f"a key of {what}", key)
    return value
