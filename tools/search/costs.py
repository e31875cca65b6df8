"""What a quantized network takes: bytes of weights and of activations, and time."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from math import prod

import torch
from torch import Tensor, fx

from fxquant import passes, targets
from fxquant.graph import is_unpacked, sample_shape
from fxquant.passmanager import Pipeline
from fxquant.qparams import QParams
from fxquant.scheme import Scheme
from fxquant.targets.groups import Group, groups
from fxquant.targets.hosted.profile import profile
from fxquant.targets.standalone.export import standalone
from fxquant.tools.cost import peak_activation_bytes
from fxquant.tools.emulate import emulate
from fxquant.tools.macs import macs
from fxquant.tools.times import ELEMENT, FUNCTION, WIDE_PRODUCT

# How much slower a multiply-accumulate is in float, by and large.
FLOAT_PRODUCT = 4.0
ROUNDS = 20

# Of an INTEGER graph and a sample.
Clock = Callable[[fx.GraphModule, Sequence[Tensor]], float]


@dataclass(frozen=True)
class Costs:
    """What is measured of every point, with the unit of its time."""

    unit: str
    clock: Clock

    def of(self, graph: fx.GraphModule, sample: Sequence[Tensor]) -> tuple[int, int, float]:
        """Bytes of weights, bytes of activations for one sample, and time."""
        return weight_bytes(graph), peak_activation_bytes(graph.graph, groups(graph)), self.clock(graph, sample)


def as_costs(target: str | None) -> Costs:
    """By a count for any machine, by this machine's clock, or by an emulated one's instructions.

    Raises TargetError for a target that there is not.
    """
    if target is None:
        return Costs("time, counted", _counted)
    wanted = targets.get(target)
    if wanted.form == "hosted":

        def microseconds(graph: fx.GraphModule, sample: Sequence[Tensor]) -> float:
            return float(profile(graph, sample, target=wanted, rounds=ROUNDS).best)

        return Costs(f"us on {wanted.name}", microseconds)

    def instructions(graph: fx.GraphModule, _sample: Sequence[Tensor]) -> float:
        made = standalone(Pipeline((passes.IntegerPorts(),))(graph), wanted, "net")
        return float(emulate(made.files, "net", made.report, wanted).instructions or 0)

    return Costs(f"instructions of {wanted.name}", instructions)


def weight_bytes(graph: fx.GraphModule) -> int:
    """Of all layers' weights, by the bits that they have; of those in float by their four bytes."""
    bits = 0
    for node in graph.graph.nodes:
        q = node.meta.get("fxq.weight_qparams")
        constants = [a for a in node.all_input_nodes if a.op == "get_attr" or is_unpacked(a)]
        if isinstance(q, QParams) and constants:
            bits += constants[0].meta["val"].numel() * Scheme(q.qmin, q.qmax).bits
        elif node.meta.get("fxq.island"):
            bits += sum(32 * a.meta["val"].numel() for a in constants if a.meta["val"].is_floating_point())
    return bits // 8


def _counted(graph: fx.GraphModule, _sample: Sequence[Tensor]) -> float:
    """Multiply-accumulates of 8 bits that would take as long."""
    found = groups(graph)
    return sum(_count(node, found) for node in graph.graph.nodes)


def _count(node: fx.Node, found: Mapping[fx.Node, Group]) -> float:
    value = node.meta.get("val")
    if node.op != "call_function" or not isinstance(value, Tensor):
        return 0.0
    reads = [a.meta["val"] for a in node.all_input_nodes if a.op != "get_attr" and isinstance(a.meta["val"], Tensor)]
    is_wide = any(x.dtype is torch.int16 for x in reads)
    factor = FLOAT_PRODUCT if node.meta.get("fxq.island") else WIDE_PRODUCT if is_wide else 1.0
    is_stored = node not in found or node is found[node].last
    if node.target is torch.ops.fxq.curve.default:
        return FUNCTION.wide * prod(sample_shape(value))
    return macs(node) * factor + ELEMENT * is_stored * prod(sample_shape(value)) * value.element_size()
