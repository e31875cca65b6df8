"""The op table: one record per float operator drives annotation, range propagation, spelling, and docs."""

from __future__ import annotations

import enum
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

from torch import fx
from torch._ops import OpOverload

from fxquant.errors import FxquantError, OpTableError
from fxquant.source import describe

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
    CARRIED = "observed in calibration, in one range with the state that it goes on from"


# Rules for which bounds are more than a cut.
_MATHEMATICAL = (RangeRule.BOUNDED, RangeRule.KNOWN)


class Fusion(enum.Enum):
    """What an op can do without its operand or result being rounded to 8 bits in between."""

    SUM = "gives accumulators that a following clamp, scaling or addition may take up"
    ADD = "takes one operand as accumulators, gives accumulators"
    CLAMP = "takes accumulators, gives clamped ones"
    POINTWISE = "a function of one value: chains become one lookup"
    NONE = "operand and result are integers of 8 or 16 bits"


class Channels(enum.Enum):
    """What a call does to channels, so that some can be removed (see `fxquant.channels`)."""

    ALIKE = "combines elements at the same place"
    EACH = "has a parameter for each channel"
    MOVED = "moves elements"
    WITHIN = "combines the elements of a channel, over the axes that it is told or all behind the channels"
    WEIGHTED = "sums over channels, by a weight with a row for each result and a column for each operand"
    MIXED = "combines channels in another way: they all stay"


# What an op can fuse says that it goes element by element.
_ELEMENTWISE = (Fusion.POINTWISE, Fusion.CLAMP, Fusion.ADD)


def no_bounds(node: fx.Node) -> tuple[float, float]:
    """Nothing is known about the result."""
    return float("-inf"), float("inf")


def always(node: fx.Node) -> str | None:
    """The op has an integer spelling for all its arguments."""
    return None


def never(node: fx.Node, constant: fx.Node) -> bool:
    """Constants that are operands are quantized like all others."""
    return False


def any_steps(node: fx.Node) -> int:
    """The codes of the recipe are enough."""
    return 0


def fits(module: fx.GraphModule, node: fx.Node) -> str | None:
    """The op has an integer spelling whatever the ranges."""
    return None


@dataclass(frozen=True)
class FloatOp:
    """All that fxquant knows of one float operator.

    `activations` are the argument positions of quantized operands (an argument may be a list of nodes); `weight` and
    `bias` the positions of constants, with `weight_axis` the weight's output channels. `refuses` says why a certain
    call has no integer spelling, or None; `misfits` the same of a call whose ranges are known by now. `exact` says of a
    constant operand that the call takes it as the real number that it is. Where mathematics has a pole, the result
    `has_poles`: what is infinite is no part of its range. `wide` are the positions of operands that keep 16 bits
    whatever the recipe, and so does a result that `is_wide`; `carries` is the position of the state that a recurrence
    goes on from. `steps` are those that a call's result needs from 0 up, whatever the recipe; 0 where any do.
    `channels` says what pruning may do, where `fusion` does not. Passes ask the methods, which blame a record
    for what its functions give.

    Raises OpTableError where range rule and facts do not fit together.
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
    exact: Callable[[fx.Node, fx.Node], bool] = never
    has_poles: bool = False
    wide: tuple[int, ...] = ()
    is_wide: bool = False
    carries: int | None = None
    steps: Callable[[fx.Node], int] = any_steps
    channels: Channels | None = None

    def __post_init__(self) -> None:
        """A rule needs what it speaks of."""
        if self.range in _MATHEMATICAL and self.bounds is no_bounds:
            raise OpTableError(f"the record {self.name!r}: a range that is {self.range.name} needs bounds")
        if self.range in (RangeRule.SHARED, RangeRule.JOINED) and not self.activations:
            raise OpTableError(f"the record {self.name!r}: a range that is {self.range.name} needs activations")

    @property
    def follows(self) -> Channels:
        """What a call does to channels."""
        if self.channels is not None:
            return self.channels
        return Channels.ALIKE if self.fusion in _ELEMENTWISE else Channels.MIXED

    def ends(self, node: fx.Node) -> tuple[float, float]:
        """The bounds of a call's result; finite where the range is known, but for scores, which softmax cuts below."""
        with self.blamed("bounds", node):
            low, high = self.bounds(node)
            is_range = low <= high and (self.range not in _MATHEMATICAL or high < float("inf"))
        if not is_range:
            raise OpTableError(
                f"the record {self.name!r}: bounds gives [{low}, {high}], no range, for {describe(node)}"
            )
        return float(low), float(high)

    def why_not(self, node: fx.Node) -> str | None:
        """Why a call has no integer spelling, None if it has one."""
        with self.blamed("refuses", node):
            reason: object = self.refuses(node)
            several = self.operands(node)
        if reason is not None and not (isinstance(reason, str) and reason):
            raise OpTableError(f"the record {self.name!r}: refuses gives {reason!r}, not a sentence or None")
        if reason is None and self.range in (RangeRule.SHARED, RangeRule.JOINED) and not several:
            raise OpTableError(
                f"the record {self.name!r}: its range is {self.range.name}, and none of its activations "
                f"{self.activations} is a value in {describe(node)}"
            )
        return reason

    @contextmanager
    def blamed(self, function: str, node: fx.Node) -> Iterator[None]:
        """What a function of the record raises for a call is named as that record's."""
        try:
            yield
        except FxquantError:
            raise
        except Exception as error:
            raise OpTableError(
                f"the record {self.name!r} of the op table fails in {function} for {describe(node)}: "
                f"{type(error).__name__}: {error}"
            ) from error

    def operands(self, node: fx.Node) -> list[fx.Node]:
        """The quantized operands of a call, flat, in order; scalars and exact constants are left out."""
        found: list[fx.Node] = []
        for position in self.activations:
            argument: Any = node.args[position] if position < len(node.args) else None
            several: Iterable[Any] = argument if isinstance(argument, (list, tuple)) else [argument]
            found.extend(a for a in several if isinstance(a, fx.Node) and not self._is_exact(node, a))
        return found

    def _is_exact(self, node: fx.Node, operand: fx.Node) -> bool:
        return operand.op == "get_attr" and self.exact(node, operand)


TABLE: dict[Any, FloatOp] = {}


def enter(record: FloatOp, *, replaces: bool = False) -> None:
    """Put a record into the table, under every overload that it is about.

    Raises OpTableError for an overload that another record is about, unless this one `replaces` it. The same record
    made again, as in a notebook, replaces itself.
    """
    for target in record.targets:
        other = TABLE.get(target)
        if other is not None and not replaces and _home(other) != _home(record):
            raise OpTableError(
                f"{target} is in the op table already, as {other.name!r} of {other.spell.__module__}: to take its "
                f"place, say float_op({target}, ..., replaces=True)"
            )
    TABLE.update(dict.fromkeys(record.targets, record))


def _home(record: FloatOp) -> tuple[str, str]:
    return record.spell.__module__, record.name


def float_op(*targets: Any, replaces: bool = False, **facts: Any) -> Callable[[Spell], Spell]:
    """Enter the decorated speller into the table, under every overload of `targets`; its docstring becomes the docs.

    Raises OpTableError for what is no overload, for an unknown fact, and as `enter` and `FloatOp` do.
    """
    for target in targets:
        if not isinstance(target, OpOverload):
            raise OpTableError(f"float_op takes overloads, such as torch.ops.aten.relu.default, not {target}")
    if unknown := sorted(set(facts) - {field.name for field in fields(FloatOp)}):
        known = ", ".join(field.name for field in fields(FloatOp)[4:])
        raise OpTableError(f"float_op knows no fact {unknown[0]!r}; known: {known}")

    def add(spell: Spell) -> Spell:
        record = FloatOp(spell.__name__.strip("_"), targets, spell, (spell.__doc__ or "").strip(), **facts)
        enter(record, replaces=replaces)
        return spell

    return add


def lookup(node: fx.Node) -> FloatOp | None:
    """The record of a call, if the table has one."""
    return TABLE.get(node.target) if node.op == "call_function" else None


def is_foreign(node: fx.Node) -> bool:
    """Whether somebody else's record is about a call: passes that would rewrite the operator leave it to that."""
    record = lookup(node)
    return record is not None and not record.spell.__module__.startswith("fxquant.")
