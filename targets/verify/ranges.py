"""Interval arithmetic over the records of `accesses.py`: between which values an expression lies.

Every interval holds all values that the expression can take (and often others: operands are taken for independent).
`box` narrows loop variables, so that a caller who needs more can look at the parts of a loop one by one.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from fxquant.targets.verify.accesses import Element, Expression, Interval, Loop, Memory, Number, Operation, Tables

NO, YES, MAYBE = (0, 0), (1, 1), (0, 1)
ROUNDS = 5  # that a value which is made of itself is followed
Box = Mapping[Loop, Interval]


class NeverRuns(Exception):
    """In this box a loop has no turn, or a condition never holds."""


class Ranges:
    """Bounds of expressions in one box; constants that are tables are looked into."""

    def __init__(
        self,
        box: Box,
        tables: Tables,
        known: Mapping[Expression, Interval] | None = None,
        held: Mapping[Memory, Interval | None] | None = None,
    ) -> None:
        self.box, self.tables = box, tables
        # What private memory is taken to hold whose stores are being looked at (None: nothing yet).
        self.held = held or {}
        # What conditions say of expressions, beyond what their operands do.
        self.known = dict(known or {})
        self.found: dict[Expression, Interval] = {}

    def of(self, expression: Expression) -> Interval:
        """The least and the greatest value. Raises NeverRuns where a loop around it has no turn."""
        found = self.found.get(expression)
        if found is None:
            low, high = self._of(expression)
            if expression in self.known:
                low, high = max(low, self.known[expression][0]), min(high, self.known[expression][1])
                if low > high:
                    raise NeverRuns
            found = self.found[expression] = (low, high)
        return found

    def _of(self, expression: Expression) -> Interval:
        if isinstance(expression, Number):
            return expression.limits
        if isinstance(expression, Loop):
            return self._loop(expression)
        if isinstance(expression, Operation):
            low, high = self._operation(expression)
            # Beyond what its type holds a value wraps around, to anywhere.
            least, most = expression.limits
            return (low, high) if least <= low and high <= most else (least, most)
        if isinstance(expression, Element):
            return self._element(expression)
        return expression.limits

    def _loop(self, loop: Loop) -> Interval:
        low, high = self.of(loop.first)[0], self.of(loop.end)[1] - 1
        if loop in self.box:
            low, high = max(low, self.box[loop][0]), min(high, self.box[loop][1])
        if low > high:
            raise NeverRuns
        return low, high

    def _operation(self, expression: Operation) -> Interval:
        if expression.name == "select":
            return self._select(*expression.operands)
        return OPERATIONS[expression.name](*map(self.of, expression.operands))

    def _select(self, condition: Expression, then: Expression, other: Expression) -> Interval:
        holds = self.of(condition)
        sides = []
        for side, held, not_held in ((then, [condition], []), (other, [], [condition])):
            if holds == (NO if held else YES):
                continue
            try:
                sides.append(self.given(held, not_held).of(side))
            except NeverRuns:
                continue
        if not sides:
            raise NeverRuns
        return min(low for low, _ in sides), max(high for _, high in sides)

    def _element(self, element: Element) -> Interval:
        memory = element.memory
        if memory.position is None:
            return self._private(element)
        table = self.tables.get(memory.position)
        if table is None:
            return element.limits
        low, high = self.of(element.index)
        part = table[max(low, 0) : high + 1]
        return (int(part.min()), int(part.max())) if part.size else element.limits

    def _private(self, element: Element) -> Interval:
        """What private memory holds: anything that is stored there while it is the same memory.

        A value that is made of what was there before (`peak = max(peak, x)`) is followed for a few rounds: once
        nothing is added, that is all that there can ever be.
        """
        memory = element.memory
        if memory in self.held:
            held = self.held[memory]
            if held is None:
                raise NeverRuns
            return held
        outside = {loop: part for loop, part in self.box.items() if loop in memory.loops}
        held = None
        for _ in range(ROUNDS):
            found = hull_of(Ranges(outside, self.tables, held={**self.held, memory: held}), memory.stores)
            if found == held or found is None:
                break
            held = found
        else:
            return element.limits
        return element.limits if held is None else held

    def given(self, held: list[Expression], not_held: list[Expression]) -> Ranges:
        """The bounds where these conditions hold and those do not. Raises NeverRuns where that cannot be."""
        known = dict(self.known)
        for condition in held:
            self._assume(condition, True, known)
        for condition in not_held:
            self._assume(condition, False, known)
        return self if known == self.known else Ranges(self.box, self.tables, known, self.held)

    def _assume(self, condition: Expression, holds: bool, known: dict[Expression, Interval]) -> None:
        value = self.of(condition)
        if value == (NO if holds else YES):
            raise NeverRuns
        if not isinstance(condition, Operation):
            return
        name, operands = condition.name, condition.operands
        if name == "not":
            self._assume(operands[0], not holds, known)
        elif name == ("and" if holds else "or"):
            for operand in operands:
                self._assume(operand, holds, known)
        elif name in ("lt", "le", "eq"):
            left, right = operands
            self._compare(name, left, right, holds, known)

    def _compare(
        self, name: str, left: Expression, right: Expression, holds: bool, known: dict[Expression, Interval]
    ) -> None:
        (low, high), (least, most) = self.of(left), self.of(right)
        if name == "eq":
            if holds:
                _narrow(known, left, least, most)
                _narrow(known, right, low, high)
            return
        if holds:  # left < right, or left <= right
            gap = 1 if name == "lt" else 0
            _narrow(known, left, low, most - gap)
            _narrow(known, right, low + gap, most)
        else:  # right <= left, or right < left
            gap = 0 if name == "lt" else 1
            _narrow(known, left, least + gap, high)
            _narrow(known, right, least, high - gap)


def hull_of(ranges: Ranges, expressions: Sequence[Expression]) -> Interval | None:
    """Between which values all of these lie, without those that are never computed."""
    found = []
    for expression in expressions:
        try:
            found.append(ranges.of(expression))
        except NeverRuns:
            continue
    return (min(low for low, _ in found), max(high for _, high in found)) if found else None


def _narrow(known: dict[Expression, Interval], expression: Expression, low: int, high: int) -> None:
    if isinstance(expression, Number):
        return
    old = known.get(expression, (low, high))
    found = max(low, old[0]), min(high, old[1])
    if found[0] > found[1]:
        raise NeverRuns
    known[expression] = found


def _mul(a: Interval, b: Interval) -> Interval:
    ends = [x * y for x in a for y in b]
    return min(ends), max(ends)


def _floordiv(a: Interval, b: Interval) -> Interval:
    if b[0] <= 0 <= b[1]:
        return _everything(a)
    ends = [x // y for x in a for y in b]
    return min(ends), max(ends)


def _truncdiv(a: Interval, b: Interval) -> Interval:
    if b[0] <= 0 <= b[1]:
        return _everything(a)
    ends = [_toward_zero(x, y) for x in a for y in b]
    return min(ends), max(ends)


def _toward_zero(x: int, y: int) -> int:
    return abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1)


def _everything(a: Interval) -> Interval:
    """A quotient by who knows what is no larger than its dividend; by zero there is none."""
    most = max(abs(a[0]), abs(a[1]))
    return -most, most


def _floormod(a: Interval, b: Interval) -> Interval:
    if b[0] != b[1] or b[0] <= 0:
        most = max(abs(b[0]), abs(b[1]))
        return -most, most
    if a[0] // b[0] == a[1] // b[0]:
        return a[0] % b[0], a[1] % b[0]
    return 0, b[0] - 1


def _truncmod(a: Interval, b: Interval) -> Interval:
    if a[0] >= 0 and b[0] > 0:
        return _floormod(a, b)
    most = max(abs(b[0]), abs(b[1]))
    return -most, most


def _shl(a: Interval, b: Interval) -> Interval:
    if not 0 <= b[0] <= b[1] < 64:
        return -(1 << 1100), 1 << 1100
    return _mul(a, (1 << b[0], 1 << b[1]))


def _shr(a: Interval, b: Interval) -> Interval:
    if not 0 <= b[0] <= b[1] < 64:
        return -(1 << 1100), 1 << 1100
    ends = [x >> y for x in a for y in b]
    return min(ends), max(ends)


def _bitand(a: Interval, b: Interval) -> Interval:
    if a[0] == a[1] and b[0] == b[1]:
        return a[0] & b[0], a[0] & b[0]
    if a[0] >= 0 or b[0] >= 0:  # no bit that the one without a sign lacks
        return 0, min(x[1] for x in (a, b) if x[0] >= 0)
    return -(1 << 1100), 1 << 1100


def _bits(exact: Callable[[int, int], int]) -> Callable[[Interval, Interval], Interval]:
    def bounded(a: Interval, b: Interval) -> Interval:
        if a[0] == a[1] and b[0] == b[1]:
            return exact(a[0], b[0]), exact(a[0], b[0])
        if a[0] >= 0 and b[0] >= 0:
            return 0, (1 << max(a[1].bit_length(), b[1].bit_length())) - 1
        return -(1 << 1100), 1 << 1100

    return bounded


def _lt(a: Interval, b: Interval) -> Interval:
    return YES if a[1] < b[0] else NO if a[0] >= b[1] else MAYBE


def _le(a: Interval, b: Interval) -> Interval:
    return YES if a[1] <= b[0] else NO if a[0] > b[1] else MAYBE


def _eq(a: Interval, b: Interval) -> Interval:
    if a == b and a[0] == a[1]:
        return YES
    return NO if a[1] < b[0] or b[1] < a[0] else MAYBE


def _not(a: Interval) -> Interval:
    return 1 - a[1], 1 - a[0]


def _hull(base: Interval, reach: Interval) -> Interval:
    """From the first to the last lane of a vector of places."""
    return base[0] + min(reach[0], 0), base[1] + max(reach[1], 0)


# By name: what an operation makes of the intervals of its operands ("select" is seen to by `Ranges`).
OPERATIONS: dict[str, Callable[..., Interval]] = {
    "add": lambda a, b: (a[0] + b[0], a[1] + b[1]),
    "sub": lambda a, b: (a[0] - b[1], a[1] - b[0]),
    "mul": _mul, "floordiv": _floordiv, "floormod": _floormod, "truncdiv": _truncdiv, "truncmod": _truncmod,
    "min": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "max": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "lt": _lt, "le": _le, "eq": _eq, "ne": lambda a, b: _not(_eq(a, b)), "not": _not,
    "and": lambda a, b: (min(a[0], b[0]), min(a[1], b[1])),
    "or": lambda a, b: (max(a[0], b[0]), max(a[1], b[1])),
    "bitand": _bitand, "bitor": _bits(lambda x, y: x | y), "bitxor": _bits(lambda x, y: x ^ y),
    "shl": _shl, "shr": _shr, "cast": lambda a: a, "hull": _hull,
}  # fmt: skip
