"""What a comparison of an INTEGER graph with its float model found, as data: a table, or JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fxquant.names import named
from fxquant.tools.shown import Shown

if TYPE_CHECKING:
    from rich.console import RenderableType


# From this share of values beyond a calibrated range on, the data is not what the range was calibrated for. Observers
# that clip on purpose stay far below it.
OUTSIDE = 0.01


@dataclass(frozen=True)
class Spread:
    """How the real values of one tensor are distributed.

    `counts` are those of equally wide bins from `low` to `high`, the extremes of the data. `alternatives` are the
    ranges that other observers would have chosen from the same data, by name.
    """

    low: float
    high: float
    mean: float
    std: float
    counts: tuple[int, ...]
    alternatives: dict[str, tuple[float, float]]


@dataclass(frozen=True)
class Parts:
    """A layer's error by its origins, each alone against what is real, in dB: see `fxquant.tools.compare.parts`.

    `weights` and `operands` are None where the layer multiplies nothing.
    """

    weights: float | None
    operands: float | None
    rounding: float
    clipping: float

    @property
    def worst(self) -> str:
        """The name of the one that makes the most of the error."""
        known = {name: db for name, db in asdict(self).items() if db is not None}
        return min(known, key=known.__getitem__)


@dataclass(frozen=True)
class Outlier:
    """A channel (along `axis`) whose largest magnitude is so many `times` the median of all channels."""

    axis: int
    channel: int
    times: float

    def __str__(self) -> str:
        """'channel 5 of axis 1 is 100 times the median'."""
        return f"channel {self.channel} of axis {self.axis} is {self.times:.3g} times the median"


@dataclass(frozen=True)
class Layer:
    """One value of the INTEGER graph against the real values that it stands for.

    `local_db` is the SQNR of this operation's own quantization (its operands being right), `cumulative_db` since the
    input. `range` is the calibrated one, `clipped` the share of real values beyond it; `saturated` of `count` integers
    lie at an end of the codes that does not stand for zero. `originals` are the operations of the FLOAT graph that were
    made one, `aliases` the ids of their nodes and its own. `parts` are what the error is made of, `outlier` is the
    channel that stands out, None if no one does.
    """

    name: str
    aliases: tuple[str, ...]
    operation: str
    module: str
    source: str
    originals: tuple[str, ...]
    local_db: float
    cumulative_db: float
    range: tuple[float, float]
    clipped: float
    saturated: int
    count: int
    spread: Spread
    parts: Parts
    outlier: Outlier | None = None


@dataclass(frozen=True)
class Recovery(Shown):
    """The smallest set of layers found that, left in float, reaches the goal; empty `layers` if nothing is needed.

    `outside` are values of which much lies beyond the calibrated range: no layer in float mends that. `recalibrated` is
    then what the same recipe reaches when it is calibrated on the data as well; where that is the goal, no layers are
    searched for. `keep_float` are rules' names for a recipe. `before` and `after` are agreement (0..1) or output SQNR
    in dB, as `measure` says. `tried` counts the graphs that were quantized on the way.
    """

    measure: str
    goal: float
    before: float
    after: float
    layers: tuple[str, ...]
    keep_float: tuple[str, ...]
    tried: int
    outside: tuple[str, ...] = ()
    recalibrated: float | None = None

    @property
    def is_reached(self) -> bool:
        """Whether leaving these in float, or calibrating on data like this, reaches the goal."""
        return self.after >= self.goal or self.is_calibration

    @property
    def is_calibration(self) -> bool:
        """Whether all that is missing is calibration on data like this."""
        return self.recalibrated is not None and self.recalibrated >= self.goal

    def tables(self) -> Sequence[RenderableType]:
        """See `fxquant.tools.compare.table`."""
        from fxquant.tools.compare.table import recovery

        return [recovery(self)]


@dataclass(frozen=True)
class Comparison(Shown):
    """Layers in the order of the graph, the outputs' SQNR, the share of equal decisions (None without any).

    `agreement_told` says what is counted as a decision: see `fxquant.tools.agreement`.
    """

    layers: tuple[Layer, ...]
    output_db: tuple[float, ...]
    agreement: float | None
    samples: int
    recovery: Recovery | None = None
    agreement_told: str = ""

    @property
    def outside(self) -> tuple[Layer, ...]:
        """Those of which at least OUTSIDE of the values lie beyond the calibrated range, in the order of the graph."""
        return tuple(layer for layer in self.layers if layer.clipped >= OUTSIDE)

    def worst(self, count: int = 10) -> tuple[Layer, ...]:
        """Those that lose the most by themselves, worst first."""
        return tuple(sorted(self.layers, key=lambda layer: (layer.local_db, layer.name))[:count])

    def layer(self, name: str) -> Layer:
        """The layer called `name`, or the last one that computes the operation, or has the id. UnknownNameError."""
        return named(name, self.layers, lambda layer: layer.originals)

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return asdict(self)

    def tables(self) -> Sequence[RenderableType]:
        """See `fxquant.tools.compare.table`."""
        from fxquant.tools.compare.table import tables

        return tables(self)
