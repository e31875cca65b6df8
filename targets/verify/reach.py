"""Proves that a kernel touches only what it may: first for all of its loops at once, then, where that is too coarse,
for ever smaller parts of them.

Bounds that depend on one another (a last tile that overlaps the one before, windows by table) make the first answer
too wide. Halving the loops, outermost first, ends with single values, where intervals are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from fxquant.errors import MemorySafetyError
from fxquant.targets.verify.accesses import Access, Accesses, Interval, Tables
from fxquant.targets.verify.parts import Wanted, cut, excess, reached
from fxquant.targets.verify.ranges import Box, NeverRuns, Ranges

MOST_PARTS = 200_000  # into which the loops of one kernel are cut before it counts as not proven


@dataclass(frozen=True)
class Allowed:
    """The elements of a parameter, counted from its pointer, that a call may read and write: first and last."""

    read: Interval
    written: Interval


def coarse(kernel: Accesses) -> dict[tuple[int, bool], Interval]:
    """By parameter and whether it is written: bounds of all accesses, loops taken as a whole and tables for unknown.

    Accesses to private memory are not in it.
    """
    found: dict[tuple[int, bool], Interval] = {}
    ranges = Ranges({}, {})
    for access in kernel.accesses:
        position = access.memory.position
        if position is None:
            continue
        try:
            low, high = reached(access, ranges)
        except NeverRuns:
            continue
        old = found.get((position, access.is_store), (low, high))
        found[position, access.is_store] = min(low, old[0]), max(high, old[1])
    return found


def prove(kernel: Accesses, allowed: Mapping[int, Allowed], tables: Tables) -> None:
    """Raises MemorySafetyError, naming the parameter, unless every access lies within what is allowed."""
    _prove([(access, _limit(access, allowed)) for access in kernel.accesses], {}, tables, [MOST_PARTS])


def _limit(access: Access, allowed: Mapping[int, Allowed]) -> Interval:
    position = access.memory.position
    if position is None:
        return 0, access.memory.elements - 1
    return allowed[position].written if access.is_store else allowed[position].read


def _prove(wanted: Sequence[Wanted], box: Box, tables: Tables, left: list[int]) -> None:
    """Accesses with what each may reach, in one box; `left` counts down the boxes that may still be looked at."""
    ranges = Ranges(box, tables)
    unproven = [item for item in wanted if excess(item, ranges)]
    while unproven:
        (access, limit), found = unproven[0], cut(unproven, ranges)
        left[0] -= 1
        if found is None or left[0] <= 0:
            raise MemorySafetyError(_told(access, limit, reached(access, ranges), box))
        parts, unproven = found
        for part in parts:
            _prove(part.wanted, {**box, part.loop: part.turns}, tables, left)


def _told(access: Access, limit: Interval, reached: Interval, box: Box) -> str:
    verb = "writes" if access.is_store else "reads"
    where = "".join(f", {loop.name} {_spelled(part)}" for loop, part in box.items())
    what = "private memory" if access.memory.position is None else "argument"
    allowed = _spelled(limit) if limit[0] <= limit[1] else "none"
    return f"{what} {access.memory.name}: it {verb} elements {_spelled(reached)}, and may touch {allowed}{where}"


def _spelled(interval: Interval) -> str:
    low, high = interval
    return str(low) if low == high else f"{low} to {high}"
