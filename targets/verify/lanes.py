"""Bounds for every turn of one loop at once: what `ranges.py` finds for a box, as arrays with a place for each turn.

A convolution looks its windows up in tables, block by block: with all blocks taken together nothing can be said, and
one by one is 48 times the work. Here it is the work of one, in numpy. What is not worth its own arithmetic (a choice,
private memory, numbers beyond 62 bits) has the bounds of the whole box, which hold for each turn as well.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any

import numpy as np

from fxquant.targets.verify.accesses import Element, Expression, Interval, Loop, Operation, parts_of
from fxquant.targets.verify.ranges import OPERATIONS, Ranges

# A number for each turn, or one for all of them.
Lane = Any
Bounds = tuple[Lane, Lane]
Truths = np.ndarray[Any, np.dtype[np.bool_]]
# Far enough from the end of 64 bits for the sum of any two.
WIDEST = 1 << 62


class Lanes:
    """Bounds of expressions in one box, for every turn that `loop` takes in it."""

    def __init__(self, ranges: Ranges, loop: Loop) -> None:
        low, high = ranges.of(loop)
        self.ranges, self.loop, self.turns = ranges, loop, np.arange(low, high + 1, dtype=np.int64)
        self.found: dict[Expression, Bounds] = {loop: (self.turns, self.turns)}
        # Where other loops have no turn.
        self.empty: dict[Loop, Truths] = {}

    def of(self, expression: Expression) -> Bounds:
        """The least and the greatest value. Raises NeverRuns where it is never computed in the whole box."""
        found = self.found.get(expression)
        if found is None:
            found = self.found[expression] = self._of(expression)
        return found

    def is_beyond(self, index: Expression, limit: Interval) -> Truths:
        """The turns in which a place may be beyond its limits."""
        low, high = self.of(index)
        return np.broadcast_to((low < limit[0]) | (high > limit[1]), self.turns.shape)

    def is_idle(self, loops: tuple[Loop, ...], guards: tuple[Expression, ...]) -> Truths:
        """The turns in which one of the loops has no turn, or one of the conditions does not hold."""
        idle = np.zeros(len(self.turns), bool)
        for loop in loops:
            self.of(loop)
            if loop in self.empty:
                idle |= self.empty[loop]
        for guard in guards:
            idle |= self.of(guard)[1] == 0
        return idle

    def _of(self, expression: Expression) -> Bounds:
        whole = self.ranges.of(expression)
        if self.loop in loops_behind(expression):
            if isinstance(expression, Loop):
                return self._turns_of(expression)
            if isinstance(expression, Operation) and self._is_followed(expression):
                return self._operation(expression)
            if isinstance(expression, Element) and expression.memory.position in self.ranges.tables:
                return self._looked_up(expression)
        return self._constant(whole)

    def _constant(self, whole: Interval) -> Bounds:
        if whole[0] < -WIDEST or whole[1] > WIDEST:
            raise OverflowError
        return whole

    def _turns_of(self, loop: Loop) -> Bounds:
        low, high = self.of(loop.first)[0], self.of(loop.end)[1] - 1
        if loop in self.ranges.box:
            least, most = self.ranges.box[loop]
            low, high = np.maximum(low, least), np.minimum(high, most)
        self.empty[loop] = low > high
        return low, np.maximum(low, high)

    def _is_followed(self, expression: Operation) -> bool:
        """Whether there is arithmetic for it, and room: in no turn is a number larger than in the whole box."""
        if expression.name not in FOLLOWED:
            return False
        operands = [self.ranges.of(operand) for operand in expression.operands]
        if expression.name in ("floordiv", "floormod") and not 0 < operands[1][0] == operands[1][1]:
            return False
        low, high = OPERATIONS[expression.name](*operands)
        return bool(-WIDEST <= low and high <= WIDEST)

    def _operation(self, expression: Operation) -> Bounds:
        low, high = FOLLOWED[expression.name](*map(self.of, expression.operands))
        least, most = expression.limits
        wraps = np.logical_or(low < least, high > most)
        return (np.where(wraps, least, low), np.where(wraps, most, high)) if wraps.any() else (low, high)

    def _looked_up(self, element: Element) -> Bounds:
        """The extremes of a part of the table for each turn."""
        assert element.memory.position is not None
        table = self.ranges.tables[element.memory.position]
        low, high = (np.broadcast_to(bound, self.turns.shape) for bound in self.of(element.index))
        first, end = np.maximum(low, 0), np.minimum(high + 1, len(table))
        is_known = first < end
        first, end = np.where(is_known, first, 0), np.where(is_known, end, 1)
        if bool((end == first + 1).all()):
            least = most = table[first].astype(np.int64)
        else:
            # From each first one to before its end, and from there to the next, which nobody wants; the end may be
            # one past the last.
            ends = np.stack([first, end], 1).reshape(-1)
            padded = np.append(table, table[-1:]).astype(np.int64)
            least, most = (f.reduceat(padded, ends)[::2] for f in (np.minimum, np.maximum))
        limits = element.limits
        return np.where(is_known, least, limits[0]), np.where(is_known, most, limits[1])


@lru_cache(maxsize=1 << 14)
def loops_behind(expression: Expression) -> frozenset[Loop]:
    """All loop variables that a value depends on."""
    own = frozenset({expression}) if isinstance(expression, Loop) else frozenset()
    return own.union(*map(loops_behind, parts_of(expression)))


def _mul(a: Bounds, b: Bounds) -> Bounds:
    if type(b[0]) is int and 0 <= b[0] == b[1]:
        return a[0] * b[0], a[1] * b[0]
    ends = [x * y for x in a for y in b]
    return np.minimum.reduce(ends), np.maximum.reduce(ends)


def _floordiv(a: Bounds, b: Bounds) -> Bounds:
    return a[0] // b[0], a[1] // b[0]


def _floormod(a: Bounds, b: Bounds) -> Bounds:
    within = a[0] // b[0] == a[1] // b[0]
    return np.where(within, a[0] % b[0], 0), np.where(within, a[1] % b[0], b[0] - 1)


def _lt(a: Bounds, b: Bounds) -> Bounds:
    return _number(a[1] < b[0]), _number(a[0] < b[1])


def _le(a: Bounds, b: Bounds) -> Bounds:
    return _number(a[1] <= b[0]), _number(a[0] <= b[1])


def _eq(a: Bounds, b: Bounds) -> Bounds:
    is_one = np.equal(a[0], a[1]) & np.equal(b[0], b[1]) & np.equal(a[0], b[0])
    return _number(is_one), _number(np.less_equal(a[0], b[1]) & np.less_equal(b[0], a[1]))


def _number(truth: Any) -> Lane:
    """0 or 1."""
    return np.asarray(truth, np.int64)


def _not(a: Bounds) -> Bounds:
    return 1 - a[1], 1 - a[0]


# Like `ranges.OPERATIONS`; quotients by one positive number alone.
FOLLOWED: dict[str, Callable[..., Bounds]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _mul, "floordiv": _floordiv, "floormod": _floormod,
    "min": lambda a, b: (np.minimum(a[0], b[0]), np.minimum(a[1], b[1])),
    "max": lambda a, b: (np.maximum(a[0], b[0]), np.maximum(a[1], b[1])),
    "lt": _lt, "le": _le, "eq": _eq, "ne": lambda a, b: _not(_eq(a, b)), "not": _not,
    "and": lambda a, b: (np.minimum(a[0], b[0]), np.minimum(a[1], b[1])),
    "or": lambda a, b: (np.maximum(a[0], b[0]), np.maximum(a[1], b[1])),
    "cast": lambda a: a,
    "hull": lambda base, reach: (base[0] + np.minimum(reach[0], 0), base[1] + np.maximum(reach[1], 0)),
}  # fmt: skip
