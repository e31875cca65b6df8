"""Proves that a kernel touches only what it may: first for all of its loops at once, then, where that is too coarse,
for ever smaller parts of them.

Bounds that depend on one another (a last tile that overlaps the one before, windows by table) make the first answer
too wide. Halving the loops, outermost first, ends with single values, where intervals are exact.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache

from fxquant.errors import MemorySafetyError
from fxquant.targets.verify.accesses import Access, Accesses, Element, Expression, Interval, Loop, Operation, Tables
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
            low, high = _reached(access, ranges)
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


def _prove(wanted: Sequence[tuple[Access, Interval]], box: Box, tables: Tables, left: list[int]) -> None:
    """Accesses with what each may reach, in one box; `left` counts down the boxes that may still be looked at."""
    ranges = Ranges(box, tables)
    unproven = [(access, limit) for access, limit in wanted if _excess(access, limit, ranges)]
    while unproven:
        access, limit = unproven[0]
        halved = _to_halve(access, limit, box, ranges)
        left[0] -= 1
        if halved is None or left[0] <= 0:
            raise MemorySafetyError(_told(access, limit, _reached(access, ranges), box))
        loop, halves = halved
        # Together with all others that the halves may help.
        together = [item for item in unproven if loop in item[0].loops]
        unproven = [item for item in unproven if loop not in item[0].loops]
        for half in halves:
            _prove(together, {**box, loop: half}, tables, left)


def _reached(access: Access, ranges: Ranges) -> Interval:
    """The least and greatest element. Raises NeverRuns where it has no turn in this box."""
    for loop in access.loops:
        ranges.of(loop)
    if access.guards:
        ranges = ranges.given(list(access.guards), [])
    return ranges.of(access.index)


def _to_halve(access: Access, limit: Interval, box: Box, ranges: Ranges) -> tuple[Loop, tuple[Interval, ...]] | None:
    """A loop of more than one turn that the place depends on, and its halves: the one whose halves leave least to be
    proven, of equal ones the outermost."""
    matter = frozenset().union(*map(_loops_behind, (access.index, *access.guards)))
    found = []
    for loop in access.loops:
        low, high = ranges.of(loop)
        if loop in matter and low < high:
            middle = (low + high) // 2
            found.append((loop, ((low, middle), (middle + 1, high))))
    if len(found) < 2:
        return found[0] if found else None

    def worst(item: tuple[Loop, tuple[Interval, ...]]) -> int:
        return max(_excess(access, limit, Ranges({**box, item[0]: half}, ranges.tables)) for half in item[1])

    return min(found, key=worst)


def _excess(access: Access, limit: Interval, ranges: Ranges) -> int:
    """How many elements beyond the limit are reached, as far as is known."""
    try:
        low, high = _reached(access, ranges)
    except NeverRuns:
        return 0
    return max(limit[0] - low, 0) + max(high - limit[1], 0)


@lru_cache(maxsize=1 << 14)
def _loops_behind(expression: Expression) -> frozenset[Loop]:
    """All loop variables that a value depends on."""
    own = frozenset({expression}) if isinstance(expression, Loop) else frozenset()
    return own.union(*map(_loops_behind, _parts(expression)))


def _parts(expression: Expression) -> tuple[Expression, ...]:
    if isinstance(expression, Loop):
        return expression.first, expression.end
    if isinstance(expression, Operation):
        return expression.operands
    return (expression.index,) if isinstance(expression, Element) else ()


def _told(access: Access, limit: Interval, reached: Interval, box: Box) -> str:
    verb = "writes" if access.is_store else "reads"
    where = "".join(f", {loop.name} {_spelled(part)}" for loop, part in box.items())
    what = "private memory" if access.memory.position is None else "argument"
    allowed = _spelled(limit) if limit[0] <= limit[1] else "none"
    return f"{what} {access.memory.name}: it {verb} elements {_spelled(reached)}, and may touch {allowed}{where}"


def _spelled(interval: Interval) -> str:
    low, high = interval
    return str(low) if low == high else f"{low} to {high}"
