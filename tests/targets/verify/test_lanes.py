"""All turns at once, and the first and last of accesses that are alike, prove what one by one would, and no more."""

from __future__ import annotations

from itertools import product
from typing import Any

import numpy as np
import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fxquant.errors import MemorySafetyError
from fxquant.targets.verify.accesses import Access, Accesses, Element, Expression, Loop, Memory, Operation
from fxquant.targets.verify.alike import ends_of
from fxquant.targets.verify.lanes import Lanes
from fxquant.targets.verify.ranges import Ranges
from fxquant.targets.verify.reach import Allowed, coarse, prove
from tests.targets.verify.test_ranges import INDEX, LOOPS, MEMORY, TABLE, computed, expressions, loop, number

# A single turn of these is bounded by more than its value.
INEXACT = {"cast", "truncmod", "floormod", "truncdiv", "floordiv", "bitand"}
X = Memory("x", "int8", 1 << 40, position=1)


def turns() -> list[dict[Loop, int]]:
    return [dict(zip(LOOPS, turn, strict=True)) for turn in product(range(5), range(-3, 4))]


def values(e: Expression, at: list[dict[Loop, int]]) -> list[int]:
    """Without the turns in which it has none."""
    found = []
    for turn in at:
        try:
            found.append(computed(e, turn))
        except (ZeroDivisionError, ValueError):
            continue
    return found


def names(e: Expression) -> set[str]:
    if isinstance(e, Element):
        return names(e.index)
    return {e.name}.union(*map(names, e.operands)) if isinstance(e, Operation) else set()


def read_by(*indices: Expression, guards: tuple[Expression, ...] = ()) -> Accesses:
    """A kernel that reads x at these places."""
    accesses = tuple(Access(X, index, False, LOOPS, guards) for index in indices)
    return Accesses((MEMORY, X), LOOPS[0], accesses)


def is_proven(kernel: Accesses, low: int, high: int) -> bool:
    try:
        prove(kernel, {1: Allowed((low, high), (0, -1))}, {0: TABLE})
    except MemorySafetyError:
        return False
    return True


@settings(max_examples=300, deadline=None, derandomize=True)
@given(expressions(), st.sampled_from(LOOPS))
def test_every_value_is_inside(e: Expression, over: Loop) -> None:
    lanes = Lanes(Ranges({}, {0: TABLE}), over)
    try:
        bounds = [np.broadcast_to(bound, lanes.turns.shape).tolist() for bound in lanes.of(e)]
    except OverflowError:
        return
    for turn, low, high in zip(lanes.turns.tolist(), *bounds, strict=True):
        found = values(e, [t for t in turns() if t[over] == turn])
        assert not found or (low <= min(found) and max(found) <= high)


@settings(max_examples=200, deadline=None, derandomize=True)
@given(expressions(), st.booleans())
def test_what_is_proven_is_true_and_what_is_true_is_proven(e: Expression, at_the_end: bool) -> None:
    found = values(e, turns())
    assume(found)
    low, high = min(found), max(found)
    assert not is_proven(read_by(e), low + (not at_the_end), high - at_the_end)
    if len(found) == len(turns()) and not names(e) & INEXACT:
        assert is_proven(read_by(e), low, high)


def test_loops_without_turns_and_conditions_that_fail() -> None:
    i, j = LOOPS[0], loop(0, 5)
    triangle = Loop(INDEX, "j", number(0), i)  # no turn for i = 0
    at = Operation(INDEX, "sub", (i, triangle))
    kernel = Accesses((MEMORY, X), i, (Access(X, at, False, (i, triangle), ()),))
    assert is_proven(kernel, 1, 4) and not is_proven(kernel, 2, 4)
    below = Operation((0, 1), "lt", (i, number(3)))
    looked = Element((-128, 127), MEMORY, Operation(INDEX, "add", (i, j)))
    guarded = Accesses((MEMORY, X), i, (Access(X, looked, False, (i, j), (below,)),))
    part = TABLE[:7]
    assert is_proven(guarded, int(part.min()), int(part.max()))
    assert not is_proven(guarded, int(part.min()) + 1, int(part.max()))


@settings(max_examples=100, deadline=None, derandomize=True)
@given(
    expressions(2), st.lists(st.integers(-20, 20), min_size=1, max_size=6), st.sampled_from(["left", "right", "ramp"])
)
def test_the_first_and_the_last_stand_for_all(e: Expression, constants: list[int], form: str) -> None:
    def place(constant: int) -> Expression:
        pair = (number(constant), e) if form == "left" else (e, number(constant))
        found = Operation(INDEX, "add", pair)
        return Operation(INDEX, "hull", (found, number(7))) if form == "ramp" else found

    # As the reader does it, one object for what is equal.
    shared: dict[Any, Expression] = {c: place(c) for c in constants}
    every = read_by(*(shared[c] for c in constants))
    fewer = ends_of(every.accesses)
    assert len(fewer) <= len(set(constants)) and set(fewer) <= set(every.accesses)
    assert coarse(Accesses(every.parameters, every.task, fewer)) == coarse(every)


def test_what_is_not_alike_stays() -> None:
    i, j = LOOPS
    places = [Operation(INDEX, "add", (i, number(1))), Operation(INDEX, "add", (j, number(2)))]
    kernel = read_by(*places)
    assert ends_of(kernel.accesses) == kernel.accesses
    stored = Access(X, places[0], True, LOOPS, ())
    guarded = Access(X, places[0], False, LOOPS, (Operation((0, 1), "lt", (i, j)),))
    assert len(ends_of([kernel.accesses[0], stored, guarded])) == 3


def test_numbers_beyond_64_bits_are_left_to_whole_boxes() -> None:
    i = LOOPS[0]
    huge = Operation((-(1 << 70), 1 << 70), "mul", (i, number(1 << 61)))
    with pytest.raises(OverflowError):
        Lanes(Ranges({}, {}), i).of(huge)
    held = Operation(INDEX, "min", (huge, number(3)))
    assert is_proven(read_by(held), 0, 3) and not is_proven(read_by(held), 0, 2)
