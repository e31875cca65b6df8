"""Into which parts a box is cut whose bounds are too coarse: a loop's turns, all at once, or its halves."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fxquant.targets.verify.accesses import Access, Interval, Loop
from fxquant.targets.verify.lanes import Lanes, loops_behind
from fxquant.targets.verify.ranges import NeverRuns, Ranges

Wanted = tuple[Access, Interval]  # an access, and what it may reach
MOST_LANES = 1 << 14  # turns of a loop that are looked at in one go


@dataclass(frozen=True)
class Part:
    """Some turns of a loop, and the accesses that are still to be proven in them."""

    loop: Loop
    turns: Interval
    wanted: Sequence[Wanted]


def reached(access: Access, ranges: Ranges) -> Interval:
    """The least and greatest element. Raises NeverRuns where it has no turn in this box."""
    for loop in access.loops:
        ranges.of(loop)
    if access.guards:
        ranges = ranges.given(list(access.guards), [])
    return ranges.of(access.index)


def excess(wanted: Wanted, ranges: Ranges) -> int:
    """How many elements beyond the limit are reached, as far as is known."""
    access, limit = wanted
    try:
        low, high = reached(access, ranges)
    except NeverRuns:
        return 0
    return max(limit[0] - low, 0) + max(high - limit[1], 0)


def cut(unproven: Sequence[Wanted], ranges: Ranges) -> tuple[list[Part], list[Wanted]] | None:
    """The parts, and what none of them can prove, for another cut; None where there is no loop to cut.

    It is the loop whose single turns prove most of the first access; where none proves anything, two must be cut, and
    the first is halved whose halves leave least, of equal ones the outermost. What the loop is around of comes along.
    """
    first, loops = unproven[0], _loops(unproven[0][0], ranges)
    if not loops:
        return None
    tried = [(_share(_turn_by_turn([first], loop, ranges), loop, ranges), loop) for loop in loops]
    share, loop = min(tried, key=lambda item: item[0])
    if share == 1:
        loop = min(loops, key=lambda loop: _worst(first, loop, ranges)) if len(loops) > 1 else loop
    together = [item for item in unproven if loop in item[0].loops]
    others = [item for item in unproven if loop not in item[0].loops]
    parts = _turn_by_turn(together, loop, ranges) if share < 1 else None
    return [Part(loop, turns, together) for turns in _halves(loop, ranges)] if parts is None else parts, others


def _loops(access: Access, ranges: Ranges) -> list[Loop]:
    """Those of more than one turn that the place depends on, outermost first."""
    matter = frozenset().union(*map(loops_behind, (access.index, *access.guards)))
    return [loop for loop in access.loops if loop in matter and ranges.of(loop)[0] < ranges.of(loop)[1]]


def _halves(loop: Loop, ranges: Ranges) -> tuple[Interval, Interval]:
    low, high = ranges.of(loop)
    middle = (low + high) // 2
    return (low, middle), (middle + 1, high)


def _worst(wanted: Wanted, loop: Loop, ranges: Ranges) -> int:
    """What the worse half of a loop leaves to be proven."""
    return max(excess(wanted, Ranges({**ranges.box, loop: half}, ranges.tables)) for half in _halves(loop, ranges))


def _share(parts: Sequence[Part] | None, loop: Loop, ranges: Ranges) -> float:
    """How much of a loop is in these parts."""
    low, high = ranges.of(loop)
    return 1.0 if parts is None else sum(part.turns[1] - part.turns[0] + 1 for part in parts) / (high - low + 1)


def _turn_by_turn(wanted: Sequence[Wanted], loop: Loop, ranges: Ranges) -> list[Part] | None:
    """Runs of turns in which looking at the turns one by one does not prove everything; None if it proves nothing."""
    low, high = ranges.of(loop)
    if high - low >= MOST_LANES:
        return None
    lanes, found = Lanes(ranges, loop), list[tuple[Wanted, Any]]()
    for access, limit in wanted:
        try:
            is_open = lanes.is_beyond(access.index, limit) & ~lanes.is_idle(access.loops, access.guards)
        except NeverRuns:
            continue
        except OverflowError:
            return None
        found.append(((access, limit), is_open))
    any_open = np.logical_or.reduce([lane for _, lane in found]) if found else np.zeros(high - low + 1, bool)
    parts = [
        Part(loop, (low + start, low + end - 1), [item for item, lane in found if lane[start:end].any()])
        for start, end in _runs(any_open)
    ]
    return None if [(part.turns, len(part.wanted)) for part in parts] == [((low, high), len(wanted))] else parts


def _runs(chosen: Any) -> list[Interval]:
    """From where to before where a condition holds, place after place."""
    edges = np.flatnonzero(np.diff(chosen.astype(np.int8), prepend=0, append=0)).tolist()
    return list(zip(edges[::2], edges[1::2], strict=True))
