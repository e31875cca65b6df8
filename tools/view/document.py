"""What the viewer shows, as data: the schema of its JSON twin. See docs/viewer.md.

Ids are the names of layers (see `fxquant.names`), which stay the same from pass to pass and from run to run: stages and
documents are matched by them. Records that are equal in several stages are stored once, in `Run.pool`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import cached_property
from typing import Any

SCHEMA = "fxquant.view/1"


@dataclass(frozen=True)
class Constant:
    """A weight, bias, multiplier or table, drawn inside its consumer."""

    name: str
    dtype: str
    shape: tuple[int | str, ...]
    bytes: int


@dataclass(frozen=True)
class Value:
    """How a tensor is quantized: real range, parameters, bits, and whose range it is."""

    low: float
    high: float
    scale: float
    zero_point: int
    qmin: int
    qmax: int
    bits: int
    reason: str


@dataclass(frozen=True)
class Weight:
    """A quantized weight; `low` and `high` are the real extremes of each channel, of at most 512 channels."""

    dtype: str
    shape: tuple[int, ...]
    bits: int
    bytes: int
    scale_low: float
    scale_high: float
    low: tuple[float, ...]
    high: tuple[float, ...]


@dataclass(frozen=True)
class Multiplier:
    """real = integer * 2^(shift - 32), lowest and highest over channels.

    `relative_error` is the largest over channels, against the exact quotient of scales; where that is not known from
    the graph, `is_bound` says that it is the bound 0.5 / integer.
    """

    low: float
    high: float
    integer_low: int
    integer_high: int
    shift: int
    relative_error: float
    is_bound: bool


@dataclass(frozen=True)
class Node:
    """A value of the graph; its edges lead from `inputs`, and each carries what the node it comes from says.

    `kind` is input, call or output. `originals` are operations of the FLOAT graph that it computes, `aliases` the ids
    of graph nodes by which it is found as well. `feeds`: the value is accumulators that this node rounds at once.
    `fused_into`: taken up unrounded by that node. `plan` is how it is to be computed, `passes` are those that made and
    changed it. `bytes` and `macs` are for one sample. `why` speaks for a value without a range: it stayed float, or is
    accumulators.
    """

    id: str
    aliases: tuple[str, ...]
    kind: str
    operation: str
    inputs: tuple[str, ...]
    constants: tuple[Constant, ...]
    module: str
    source: str
    originals: tuple[str, ...]
    dtype: str
    shape: tuple[int | str, ...]
    bytes: int
    macs: int
    value: Value | None
    weight: Weight | None
    multipliers: tuple[Multiplier, ...]
    is_float: bool
    feeds: str
    fused_into: str
    plan: str
    passes: tuple[str, ...]
    why: str


@dataclass(frozen=True)
class Stage:
    """The graph after one pass: positions in the pool, in topological order; output error against the first stage."""

    name: str
    stage: str
    nodes: tuple[int, ...]
    output_db: float | None = None


@dataclass(frozen=True)
class Tenant:
    """A tensor in the arena, from its first to its last step."""

    name: str
    offset: int
    bytes: int
    first: int
    last: int


@dataclass(frozen=True)
class Step:
    """A layer as a target runs it; `node` is the graph's. None is what is not known: of a compiled file its memory by
    step, and the last three where they were not measured."""

    node: str
    kernel: str
    constant_bytes: int | None
    alive_bytes: int | None
    macs: int
    code_bytes: int | None = None
    instructions: int | None = None
    microseconds: float | None = None


@dataclass(frozen=True)
class Memory:
    """A target's own plan: arena over time, constants, and what each step costs.

    A compiled file tells no tenants, and so no peak.
    """

    target: str
    arena_bytes: int
    constant_bytes: int
    peak_step: int | None
    steps: tuple[Step, ...]
    tenants: tuple[Tenant, ...]


@dataclass(frozen=True)
class Run:
    """One model by one recipe: its graph after every pass that was watched.

    `made_by` is the pass after which an id first appears. `measured` (by id: see `fxquant.tools.compare.records.Layer`)
    is of the last stage, `critical_path` the chain of nodes with the most MACs.
    """

    label: str
    pool: tuple[Node, ...]
    stages: tuple[Stage, ...]
    made_by: Mapping[str, str]
    critical_path: tuple[str, ...]
    measured: Mapping[str, Mapping[str, Any]] = field(default_factory=dict)
    output_db: tuple[float, ...] = ()
    agreement: float | None = None
    samples: int = 0
    memory: tuple[Memory, ...] = ()

    def nodes(self, stage: int = -1) -> list[Node]:
        """The nodes of one stage."""
        return [self.pool[position] for position in self.stages[stage].nodes]

    @cached_property
    def accumulators(self) -> Mapping[str, Sequence[Node]]:
        """In the last stage, what a node rounds, by its id."""
        found: dict[str, list[Node]] = {}
        for node in self.nodes():
            found.setdefault(node.feeds, []).append(node)
        return found


@dataclass(frozen=True)
class Document:
    """One page: one run, or several to be compared."""

    title: str
    runs: tuple[Run, ...]

    def to_json(self) -> dict[str, Any]:
        """Plain data."""
        return {"schema": SCHEMA, **asdict(self)}
