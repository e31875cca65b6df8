"""The op table: one record per float operator drives annotation, range propagation, spelling, and docs."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import fx

if TYPE_CHECKING:
    from fxquant.ops.spelling import Speller, Value

Spell = Callable[["Speller", fx.Node], "Value"]


class RangeRule(enum.Enum):
    """Where the range of an op's result comes from."""

    OBSERVED = "observed in calibration, within the bounds that mathematics gives"
    BOUNDED = "known from mathematics, or observed in calibration where that is much narrower"
    KNOWN = "known from mathematics"
    SHARED = "the operand's own: the values are the same"
    JOINED = "one range for all operands and the result"


class Fusion(enum.Enum):
    """What an op can do without its operand or result being rounded to 8 bits in between."""

    SUM = "gives accumulators that a following clamp, scaling or addition may take up"
    ADD = "takes one operand as accumulators, gives accumulators"
    CLAMP = "takes accumulators, gives clamped ones"
    POINTWISE = "a function of one value: chains become one lookup"
    NONE = "operand and result are integers of 8 or 16 bits"


def no_bounds(node: fx.Node) -> tuple[float, float]:
    """Nothing is known about the result."""
    return float("-inf"), float("inf")


def always(node: fx.Node) -> str | None:
    """The op has an integer spelling for all its arguments."""
    return None


def fits(module: fx.GraphModule, node: fx.Node) -> str | None:
    """The op has an integer spelling whatever the ranges."""
    return None


@dataclass(frozen=True)
class FloatOp:
    """All that fxquant knows of one float operator.

    `activations` are the argument positions of quantized operands (an argument may be a list of nodes); `weight` and
    `bias` the positions of constants, with `weight_axis` the weight's output channels. `refuses` says why a certain
    call has no integer spelling, or None; `misfits` the same of a call whose ranges are known by now.
    """

    name: str
    targets: tuple[Any, ...]
    spell: Spell
    doc: str
    activations: tuple[int, ...] = (0,)
    weight: int | None = None
    bias: int | None = None
    weight_axis: int = 0
    range: RangeRule = RangeRule.OBSERVED
    fusion: Fusion = Fusion.NONE
    bounds: Callable[[fx.Node], tuple[float, float]] = no_bounds
    refuses: Callable[[fx.Node], str | None] = always
    misfits: Callable[[fx.GraphModule, fx.Node], str | None] = fits

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """The quantized operands of a call, flat, in order; scalars are left out."""
        found: list[fx.Node] = []
        for position in self.activations:
            argument: Any = node.args[position] if position < len(node.args) else None
            several: Iterable[Any] = argument if isinstance(argument, (list, tuple)) else [argument]
            found.extend(a for a in several if isinstance(a, fx.Node))
        return found


TABLE: dict[Any, FloatOp] = {}


def enter(record: FloatOp) -> None:
    """Put a record into the table, under every overload that it is about."""
    TABLE.update(dict.fromkeys(record.targets, record))


def float_op(*targets: Any, **facts: Any) -> Callable[[Spell], Spell]:
    """Enter the decorated speller into the table, under every overload of `targets`; its docstring becomes the docs."""

    def add(spell: Spell) -> Spell:
        enter(FloatOp(spell.__name__.strip("_"), targets, spell, (spell.__doc__ or "").strip(), **facts))
        return spell

    return add


def lookup(node: fx.Node) -> FloatOp | None:
    """The record of a call, if the table has one."""
    return TABLE.get(node.target) if node.op == "call_function" else None
