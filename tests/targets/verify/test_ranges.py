"""Intervals hold every value: random expressions over loops, computed for all turns and compared with their bounds."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fxquant.targets.verify.accesses import Element, Expression, Loop, Memory, Number, Operation
from fxquant.targets.verify.ranges import NeverRuns, Ranges

INDEX = (-(1 << 62), 1 << 62)
TABLE = np.array([3, -7, 0, 12, 5, 5, 9, -1], np.int32)
MEMORY = Memory("table", "int32", len(TABLE), position=0)
BINARY = ("add", "sub", "mul", "floordiv", "floormod", "truncdiv", "truncmod", "min", "max", "lt", "le", "eq", "ne",
          "and", "or", "bitand", "bitor", "bitxor", "shl", "shr")  # fmt: skip
TRUTHS = ("lt", "le", "eq", "ne")


def number(value: int) -> Number:
    return Number((value, value), value)


def loop(first: int, end: int) -> Loop:
    return Loop(INDEX, "i", number(first), number(end))


LOOPS = (loop(0, 5), loop(-3, 4))


@st.composite
def expressions(draw: st.DrawFn, depth: int = 3) -> Expression:
    kind = draw(st.integers(0, 8 if depth else 1))
    if kind == 0:
        return number(draw(st.integers(-9, 9)))
    if kind == 1:
        return draw(st.sampled_from(LOOPS))
    if kind == 2:
        inner = draw(expressions(depth - 1))
        at = Operation(INDEX, "min", (Operation(INDEX, "max", (inner, number(0))), number(len(TABLE) - 1)))
        return Element((-128, 127), MEMORY, at)
    if kind == 3:
        condition = Operation(
            (0, 1), draw(st.sampled_from(TRUTHS)), (draw(expressions(depth - 1)), draw(st.sampled_from(LOOPS)))
        )
        return Operation(INDEX, "select", (condition, draw(expressions(depth - 1)), draw(expressions(depth - 1))))
    if kind == 4:
        return Operation((0, 255), "cast", (draw(expressions(depth - 1)),))
    name = draw(st.sampled_from([b for b in BINARY if b not in ("and", "or")]))
    return Operation(INDEX, name, (draw(expressions(depth - 1)), draw(expressions(depth - 1))))


def computed(e: Expression, turn: dict[Loop, int]) -> int:
    """The value in one turn of the loops. Raises ZeroDivisionError and ValueError where it has none."""
    if isinstance(e, Number):
        return e.value
    if isinstance(e, Loop):
        return turn[e]
    if isinstance(e, Element):
        return int(TABLE[computed(e.index, turn)])
    assert isinstance(e, Operation)
    if e.name == "select":
        return computed(e.operands[1 if computed(e.operands[0], turn) else 2], turn)
    x, *rest = (computed(o, turn) for o in e.operands)
    if e.name == "cast":
        return (x - e.limits[0]) % (e.limits[1] - e.limits[0] + 1) + e.limits[0]
    return exact(e.name, x, rest[0])


def exact(name: str, x: int, y: int) -> int:
    if name in ("shl", "shr") and not 0 <= y < 64:
        raise ValueError("shift")
    quotient = abs(x) // abs(y) * (1 if (x < 0) == (y < 0) else -1) if name.startswith("trunc") else 0
    found = {
        "add": x + y, "sub": x - y, "mul": x * y, "min": min(x, y), "max": max(x, y), "lt": x < y, "le": x <= y,
        "eq": x == y, "ne": x != y, "bitand": x & y, "bitor": x | y, "bitxor": x ^ y,
        "truncdiv": quotient, "truncmod": x - quotient * y,
    }  # fmt: skip
    if name in found:
        return int(found[name])
    return {"floordiv": lambda: x // y, "floormod": lambda: x % y, "shl": lambda: x << y, "shr": lambda: x >> y}[name]()


@settings(max_examples=400, deadline=None, derandomize=True)
@given(expressions())
def test_every_value_is_inside(e: Expression) -> None:
    values = []
    for turn in product(*(range(low, high) for low, high in ((0, 5), (-3, 4)))):
        try:
            values.append(computed(e, dict(zip(LOOPS, turn, strict=True))))
        except (ZeroDivisionError, ValueError):
            continue
    assume(values)
    low, high = Ranges({}, {0: TABLE}).of(e)
    assert low <= min(values) and max(values) <= high


@settings(max_examples=200, deadline=None, derandomize=True)
@given(expressions(), st.integers(0, 4), st.integers(-3, 3))
def test_single_turns_are_exact(e: Expression, i: int, j: int) -> None:
    turn = dict(zip(LOOPS, (i, j), strict=True))
    try:
        value = computed(e, turn)
    except (ZeroDivisionError, ValueError):
        return
    box = {known: (at, at) for known, at in turn.items()}
    low, high = Ranges(box, {0: TABLE}).of(e)
    assert low <= value <= high
    if "cast" not in _names(e) and not {"truncmod", "floormod", "truncdiv", "floordiv", "bitand"} & _names(e):
        assert (low, high) == (value, value)


def _names(e: Expression) -> set[str]:
    if isinstance(e, Element):
        return _names(e.index)
    return {e.name}.union(*map(_names, e.operands)) if isinstance(e, Operation) else set()


def test_a_type_wraps_around() -> None:
    byte = Operation((0, 255), "add", (number(250), LOOPS[0]))
    assert Ranges({}, {}).of(byte) == (250, 254)
    assert Ranges({}, {}).of(Operation((0, 255), "add", (byte, number(3)))) == (0, 255)


def test_conditions_narrow_what_they_are_about() -> None:
    i = LOOPS[1]
    shifted = Operation(INDEX, "add", (i, number(10)))
    above, below = Operation((0, 1), "le", (number(0), i)), Operation((0, 1), "lt", (shifted, number(12)))
    both = Operation((0, 1), "and", (above, below))
    known = Ranges({}, {}).given([both], [])
    assert known.of(i) == (0, 3) and known.of(shifted) == (10, 11)
    other = Ranges({}, {}).given([], [above])
    assert other.of(i) == (-3, -1)
    with pytest.raises(NeverRuns):
        Ranges({}, {}).given([Operation((0, 1), "lt", (i, number(-3)))], [])


def test_private_memory_holds_what_was_stored() -> None:
    peak = Memory("peak", "int32", 1)
    value = Element((-(1 << 31), (1 << 31) - 1), peak, number(0))
    peak.stores.extend([number(-5), Operation(INDEX, "max", (value, LOOPS[0]))])
    assert Ranges({}, {}).of(value) == (-5, 4)
    count = Memory("count", "int32", 1)
    counted = Element((-(1 << 31), (1 << 31) - 1), count, number(0))
    count.stores.extend([number(0), Operation(INDEX, "add", (counted, number(1)))])
    assert Ranges({}, {}).of(counted) == counted.limits, "a count that nothing ends could be any number"


def test_a_loop_without_turns() -> None:
    with pytest.raises(NeverRuns):
        Ranges({}, {}).of(loop(3, 3))
