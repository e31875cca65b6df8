"""A model of time, the same for every machine: counts, in multiply-accumulates of 8 bits that would take as long.

The weights are those of an x86 core with dot products of bytes, from profiles of the zoo's networks in 8 and in 16 bits
(`fxquant.targets.hosted.profile`). Where products take longer, everything else is a smaller share of the time: what 16
bits cost here they cost at most. `benchmarks/balanced.py` compares with the clock.
"""

from __future__ import annotations

from dataclasses import dataclass
from math import prod

from torch import fx

from fxquant.graph import sample_shape
from fxquant.ops.table import Fusion, RangeRule
from fxquant.plan import is_fused, is_integer, record
from fxquant.sensitive import is_depthwise
from fxquant.tools.macs import macs

# A product that sums up one channel alone uses a part of the machine.
DEPTHWISE = 10.0
# An element that a kernel makes in 8 bits, and what one of 16 adds: made by a product or a sum, or by a table, which no
# product takes up then.
ELEMENT, WIDE_ELEMENT, WIDE_TABLE = 25.0, 40.0, 130.0
# What a call takes whatever it computes, a tenth of a microsecond.
CALL = 50e3
# Products that read 8 bits of a value of 16 have them made by one kernel more.
NARROWED = 50.0
# What a product of 16 and 8 bits takes, for one of 8.
WIDE_PRODUCT = 3.0


@dataclass(frozen=True)
class Reader:
    """What an operation takes for an element that it reads, what more where that has 16 bits, and for a row."""

    narrow: float = 0.0
    wide: float = 45.0
    row: float = 0.0


OTHERS = Reader()
# A table of bytes is in registers; of 16 bits it is lines between knots, that are looked up element by element.
FUNCTION = Reader(wide=1500.0)
BY_NAME = {
    "softmax": Reader(12.0, 1000.0, row=24e3),
    "logsumexp": Reader(12.0, 1000.0, row=24e3),
    "layer_norm": Reader(150.0, 45.0),
    "rms_norm": Reader(150.0, 45.0),
}


def reader_of(node: fx.Node) -> Reader:
    """What kind of a reader an operation of a FLOAT or OBSERVED graph is; outputs are dequantized."""
    found = record(node)
    if found is None:
        return OTHERS
    return FUNCTION if found.fusion is Fusion.POINTWISE else BY_NAME.get(found.name, OTHERS)


def product_time(node: fx.Node) -> float:
    """The time of an operation's multiply-accumulates."""
    found = record(node)
    has_weight = found is not None and found.weight is not None
    return macs(node) * (DEPTHWISE if has_weight and is_depthwise(node) else 1.0)


def wide_time(node: fx.Node) -> float:
    """What it takes more to make a value in 16 bits; constants are there already."""
    if node.op == "get_attr":
        return 0.0
    found = record(node)
    is_table = found is not None and found.fusion is Fusion.POINTWISE
    return (WIDE_TABLE if is_table else WIDE_ELEMENT) * elements(node)


def network_time(graph: fx.Graph) -> float:
    """The time of an OBSERVED graph in 8 bits."""
    return sum(_time(node) for node in graph.nodes if is_integer(node) and not is_fused(node))


def elements(node: fx.Node) -> int:
    """Of a value, for one sample."""
    value = node.meta.get("val")
    return 0 if value is None or not hasattr(value, "shape") else prod(sample_shape(value))


def _time(node: fx.Node) -> float:
    found, reader, count = record(node), reader_of(node), elements(node)
    is_view = found is None or found.range is RangeRule.SHARED
    rows = count / max(1, sample_shape(node.meta["val"])[-1]) if reader.row else 0.0
    return product_time(node) + (ELEMENT + reader.narrow) * count + reader.row * rows + CALL * (not is_view)
