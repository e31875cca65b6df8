"""What a kernel does to memory, as plain records: expressions over its loop variables, and every load and store.

`fxquant.targets.tvm_accesses` writes them from TIR; `ranges.py` bounds them. An expression is a whole number, or a
vector of them; records of equal content are the same object, so that a condition is seen to be about an index.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field

import numpy as np

Interval = tuple[int, int]  # the least and the greatest value


@dataclass(frozen=True, eq=False, slots=True)
class Expression:
    """A value; `limits` are what its type holds."""

    limits: Interval


@dataclass(frozen=True, eq=False, slots=True)
class Number(Expression):
    """A constant."""

    value: int


@dataclass(frozen=True, eq=False, slots=True)
class Unknown(Expression):
    """Whatever the type holds: floats cast to integers, results of instructions, anything that is not followed."""


@dataclass(frozen=True, eq=False, slots=True)
class Operation(Expression):
    """One of `ranges.OPERATIONS` on operands; a comparison is 0 or 1."""

    name: str
    operands: tuple[Expression, ...]


@dataclass(frozen=True, eq=False, slots=True)
class Loop(Expression):
    """A loop variable: from `first` to before `end`. The task number is the outermost one. `name` is for messages."""

    name: str
    first: Expression
    end: Expression


@dataclass(frozen=True, eq=False)
class Memory:
    """What is loaded from and stored to: parameter number `position`, or private memory of the kernel (None).

    `loops` are those around private memory: it holds something else in each of their turns. `stores` are the values
    written to private memory, which is how an index that is kept there is bounded.
    """

    name: str
    dtype: str
    elements: int
    align: int = 1
    position: int | None = None
    loops: frozenset[Loop] = frozenset()
    stores: list[Expression] = field(default_factory=list)

    @property
    def itemsize(self) -> int:
        """Bytes per element; a bool takes one."""
        return np.dtype(self.dtype).itemsize


@dataclass(frozen=True, eq=False, slots=True)
class Element(Expression):
    """The value of one element, or of several: any of those that `index` can be."""

    memory: Memory
    index: Expression


@dataclass(frozen=True, eq=False, slots=True)
class Access:
    """A load or a store of what `index` can be, inside `loops`, outermost first, while all `guards` hold."""

    memory: Memory
    index: Expression
    is_store: bool
    loops: tuple[Loop, ...]
    guards: tuple[Expression, ...]


@dataclass(frozen=True, eq=False)
class Accesses:
    """A kernel's parameters behind the task number, and all that it does to memory."""

    parameters: tuple[Memory, ...]
    task: Loop
    accesses: tuple[Access, ...]

    @property
    def stored(self) -> frozenset[int]:
        """The positions of the parameters that are written."""
        positions = (a.memory.position for a in self.accesses if a.is_store)
        return frozenset(p for p in positions if p is not None)

    @property
    def loaded(self) -> frozenset[int]:
        """The positions of the parameters that are read."""
        positions = (a.memory.position for a in self.accesses if not a.is_store)
        return frozenset(p for p in positions if p is not None)


def parts_of(expression: Expression) -> tuple[Expression, ...]:
    """What an expression is computed from, as it is written; of an element, not what is stored there."""
    if isinstance(expression, Loop):
        return expression.first, expression.end
    if isinstance(expression, Operation):
        return expression.operands
    return (expression.index,) if isinstance(expression, Element) else ()


Tables = Mapping[int, np.ndarray[tuple[int, ...], np.dtype[np.generic]]]  # constants by the parameter's position
