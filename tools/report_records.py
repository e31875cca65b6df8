"""The report as data: frozen records that print as a table and turn into JSON."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any

from fxquant.choices import Choice
from fxquant.gains import Gain
from fxquant.names import named
from fxquant.tools.shown import Shown

if TYPE_CHECKING:
    from rich.console import RenderableType


@dataclass(frozen=True)
class WeightReport:
    """A quantized weight: how it is quantized, the range of its scales, and its bytes where it is stored.

    `kept` says why it keeps 8 bits where the recipe wants fewer.
    """

    shape: tuple[int, ...]
    dtype: str
    bits: int
    per_channel: bool
    scale_low: float
    scale_high: float
    bytes: int
    kept: str = ""


@dataclass(frozen=True)
class RangeReport:
    """The real range of a value, its parameters, and why they are so."""

    low: float
    high: float
    scale: float
    zero_point: int
    qmin: int
    qmax: int
    reason: str


@dataclass(frozen=True)
class NodeReport:
    """One operation of the integer graph.

    `origin` is the operation of the FLOAT graph whose value it is, `layers` are all that it computes, `aliases` the ids
    of their nodes and its own; `module` and `source` are the model's module path and line.
    `shape` has "N" for a free batch; `bytes` and `macs` are for one sample. `multipliers` are the real factors (lowest,
    highest over channels) of each operand. `feeds` names the operation that rounds these accumulators at once.
    `sqnr_db` is the value's error since the input, `local_sqnr_db` what this operation alone adds; `few_codes`
    is how many different integers there were, where they are so few that the value is as good as lost.
    """

    name: str
    primitive: str
    origin: str
    layers: tuple[str, ...]
    aliases: tuple[str, ...]
    module: str
    source: str
    dtype: str
    shape: tuple[int | str, ...]
    bytes: int
    macs: int
    range: RangeReport | None
    weight: WeightReport | None
    multipliers: tuple[tuple[float, float], ...]
    feeds: str | None
    is_float: bool
    sqnr_db: float | None = None
    local_sqnr_db: float | None = None
    few_codes: int | None = None


@dataclass(frozen=True)
class FloatReport:
    """An operation that stayed in float, and why.

    `in_vectors` says that a kernel of ours computes it, to the bit as Python does; else it is loops that TVM makes.
    """

    name: str
    operation: str
    reason: str
    module: str
    source: str
    in_vectors: bool = False


@dataclass(frozen=True)
class Accuracy:
    """The integer graph against the FLOAT one on `samples` samples.

    `agreement` is the share of equal decisions, `agreement_told` says of which (`fxquant.tools.agreement`); None where
    the first output decides nothing.
    """

    samples: int
    output_sqnr_db: tuple[float, ...]
    agreement: float | None
    agreement_told: str = ""


@dataclass(frozen=True)
class Report(Shown):
    """What became of a model: per node, in total, and what stayed float and why.

    MACs and activation bytes are for one sample; `uncounted` are operations that nobody can count.
    `weight_bytes` counts all constants of the integer graph (weights, biases, multipliers, tables),
    `float_weight_bytes` the same parameters in float32. `gains` are what passes for accuracy did, `choices` which
    layers the recipe auto gave ranges of run time.
    """

    nodes: tuple[NodeReport, ...]
    floats: tuple[FloatReport, ...]
    macs: int
    float_macs: int
    uncounted: tuple[str, ...]
    weight_bytes: int
    float_weight_bytes: int
    activation_bytes: int
    batch: str
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    accuracy: Accuracy | None = None
    gains: tuple[Gain, ...] = ()
    choices: tuple[Choice, ...] = ()

    @property
    def is_fully_integer(self) -> bool:
        """Whether nothing between input and output is float."""
        return not self.floats

    def node(self, name: str) -> NodeReport:
        """The node called `name`, or the last one that computes the operation, or has the id. UnknownNameError."""
        return named(name, self.nodes, lambda node: node.layers or (node.origin,))

    @property
    def lost(self) -> dict[str, int]:
        """Values of which hardly any codes are in use, though they are many: names, and how many codes."""
        return {node.name: node.few_codes for node in self.nodes if node.few_codes is not None}

    def summary(self) -> str:
        """The totals in one line."""
        from fxquant.tools.report_table import quantity, size

        stayed = f"{len(self.floats)} of them stayed float" if self.floats else "nothing stayed float"
        weights = f"{size(self.weight_bytes)} of weights (float: {size(self.float_weight_bytes)})"
        lost = f"as good as lost: {', '.join(self.lost)}; " if self.lost else ""
        return (
            f"{lost}{len(self.nodes)} operations, {stayed}; {quantity(self.macs)} MACs, {weights}; batch {self.batch}"
        )

    def to_json(self) -> dict[str, Any]:
        """The report as plain data."""
        return {"is_fully_integer": self.is_fully_integer, **asdict(self)}

    def tables(self) -> Sequence[RenderableType]:
        """See `fxquant.tools.report_table`."""
        from fxquant.tools.report_table import tables

        return tables(self)
