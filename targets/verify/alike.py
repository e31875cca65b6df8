"""Fewer accesses that say as much: an unrolled kernel touches `place + 0`, `place + 8`, ..., `place + 56`.

Of accesses that differ by a constant alone, in the same loops and under the same conditions, the first and the last
place hold all others between them. Where such a sum leaves its type, it leaves it at one of these ends.
"""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from fxquant.targets.verify.accesses import Access, Expression, Number, Operation


def ends_of(accesses: Iterable[Access]) -> tuple[Access, ...]:
    """The accesses without those between two others, in their order."""
    ends: dict[tuple[Any, ...], tuple[tuple[int, Access], tuple[int, Access]]] = {}
    for access in accesses:
        key, constant = _spine(access.index)
        place = (access.memory, access.is_store, access.loops, access.guards, key)
        low, high = ends.get(place, ((constant, access), (constant, access)))
        if constant < low[0]:
            low = constant, access
        if constant > high[0]:
            high = constant, access
        ends[place] = low, high
    return tuple(access for low, high in ends.values() for access in dict.fromkeys((low[1], high[1])))


def _spine(expression: Expression) -> tuple[Any, int]:
    """What is left of a place without the constant in its sum, and the constant."""
    if isinstance(expression, Number):
        return "number", expression.value
    if isinstance(expression, Operation):
        first, *rest = expression.operands
        if expression.name == "add" and isinstance(first, Number):
            return ("constant add", expression.limits, rest[0]), first.value
        if expression.name == "add":
            key, constant = _spine(rest[0])
            return ("add", expression.limits, first, key), constant
        if expression.name == "hull":
            key, constant = _spine(first)
            return ("hull", key, rest[0]), constant
    return expression, 0
