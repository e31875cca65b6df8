"""What became of a model, and why: one report over an INTEGER graph. Nothing about it is silent."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.arguments import int_arg, int_args, node_arg
from fxquant.choices import choice_of, choices_of
from fxquant.errors import FxquantError, StageError
from fxquant.gains import gains_of
from fxquant.graph import is_unpacked, outputs, placeholders
from fxquant.names import aliases_of, find, layer_of, layers_of, output_names
from fxquant.plan import plan_of, range_of
from fxquant.primitives import FACTS, PRIMITIVES
from fxquant.qparams import QParams
from fxquant.scheme import Scheme
from fxquant.source import module_path, name_of, source_of, target_name
from fxquant.stage import Stage, stage_of
from fxquant.targets.groups import Group, feeds, group_from, groups
from fxquant.tools import cost
from fxquant.tools.agreement import Agreement
from fxquant.tools.fidelity import Fidelity, measure
from fxquant.tools.macs import is_uncounted, macs
from fxquant.tools.report_records import Accuracy, FloatReport, NodeReport, RangeReport, Report, WeightReport
from fxquant.tools.roundings import roundings


def report(
    quantized: fx.GraphModule,
    model: nn.Module | fx.GraphModule | None = None,
    data: Any | Iterable[Any] | None = None,
    *,
    agreement: Agreement | None = None,
) -> Report:
    """Everything worth knowing about an INTEGER graph; `print` it, or ask `to_json`.

    With the FLOAT graph it came from (or the model itself) and `data`, errors are measured node by node: `data` is one
    input (a tensor, a tuple, a dict by name) or an iterable of inputs. `agreement` as for `compare`.

    Raises StageError for a graph that is not INTEGER, FxquantError when only one of `model` and `data` is given.
    """
    if stage_of(quantized) is not Stage.INTEGER:
        raise StageError(f"report needs an INTEGER graph, this one is {stage_of(quantized)}: quantize it first")
    if (model is None) != (data is None):
        raise FxquantError("errors are measured on data against a float model: give report both, or neither")
    found = Fidelity() if model is None or data is None else measure(quantized, model, data, agreement=agreement)
    calls = [n for n in quantized.graph.nodes if n.op == "call_function" and not is_unpacked(n)]
    fused = groups(quantized)
    nodes = tuple(_node(quantized, node, found, fused) for node in calls if isinstance(node.meta["val"], Tensor))
    products = {node: macs(node) for node in calls}
    return Report(
        nodes=nodes,
        floats=tuple(_float(node) for node in quantized.graph.nodes if node.meta.get("fxq.island")),
        macs=sum(products.values()),
        float_macs=sum(count for node, count in products.items() if node.meta.get("fxq.island")),
        uncounted=tuple(node.name for node in calls if is_uncounted(node)),
        weight_bytes=cost.constant_bytes(quantized),
        float_weight_bytes=cost.float_parameter_bytes(quantized),
        activation_bytes=cost.peak_activation_bytes(quantized.graph, fused),
        batch=str(quantized.meta.get("fxq.batch") or "not recorded"),
        inputs=tuple(_port(node, str(node.target)) for node in placeholders(quantized.graph)),
        outputs=tuple(map(_port, outputs(quantized.graph), output_names(quantized))),
        accuracy=_accuracy(found),
        gains=gains_of(quantized),
        choices=choices_of(quantized),
    )


def _accuracy(found: Fidelity) -> Accuracy | None:
    if not found.samples:
        return None
    return Accuracy(found.samples, found.outputs, found.agreement, found.agreement_told)


def why(graph: fx.GraphModule, name: str) -> str:
    """Why a value is quantized as it is, or stayed float, in a sentence.

    `name` is a layer's (see `fxquant.names`), an output's, or the id of a node, here or in the FLOAT graph. Where other
    operations are computed at once with it, they are named as well, and where the recipe left the choice of ranges to
    data, what these said. Raises UnknownNameError, with the nearest names.
    """
    node = find(graph, name)
    told, chosen = explained(node, name, group_from(graph, node)), choice_of(graph, layer_of(node), *layers_of(node))
    return f"{told}; {chosen}" if chosen else told


def explained(node: fx.Node, name: str, fused: Mapping[fx.Node, Group]) -> str:
    """`why` of a node that was asked for by this name, in a graph of these groups."""
    called = name_of(node) if name == name_of(node) else f"{name}, in {name_of(node)}"
    place, found, plan = f"{called} ({_place(node)})", range_of(node), plan_of(node)
    if node.meta.get("fxq.island"):
        return f"{place}: float, because {plan.reason if plan else 'no pass has planned it'}"
    if found is not None:
        return f"{place}: [{found.low:.6g}, {found.high:.6g}], {found.reason} -> {found.qparams}"
    if node.target is torch.ops.fxq.quantize_dynamic.default:
        zero, low, high = int_args(node, 2, 3, 4)
        scale = f"scale {name_of(node_arg(node, 1))}"
        return f"{place}: each sample's own range, found at run time: [{low},{high}], zero at {zero}, {scale}"
    if (user := feeds(node, fused)) is not None:
        lost, rounded = _dropped(node), explained(user, name_of(user), fused)
        sums = f"exact 48-bit sums, of which the last {lost} bits are rounded off" if lost else "32-bit accumulators"
        return f"{place}: {sums}, rounded by {name_of(user)}; {rounded}"
    if plan is not None and not plan.integer:
        return f"{place}: float, because {plan.reason}"
    return f"{place}: {'planned in integers, no range yet' if plan is not None else 'no range: it is not quantized'}"


def _place(node: fx.Node) -> str:
    source, layers = source_of(node), layers_of(node)
    told = f"{target_name(node)} at {source}" if source.file or source.module else target_name(node)
    return f"{told}, which computes {', '.join(layers)}" if len(layers) > 1 else told


def _node(module: fx.GraphModule, node: fx.Node, found: Fidelity, fused: Mapping[fx.Node, Group]) -> NodeReport:
    value, user = node.meta["val"], feeds(node, fused)
    return NodeReport(
        name=name_of(node),
        primitive=target_name(node),
        origin=str(node.meta.get("fxq.origin", "")),
        layers=layers_of(node),
        aliases=aliases_of(node),
        module=module_path(node),
        source=_line(node),
        dtype=_dtype(value),
        shape=cost.shown_shape(value),
        bytes=cost.value_bytes(node),
        macs=macs(node),
        range=_range(node),
        weight=_weight(node),
        multipliers=_multipliers(module, node),
        feeds=None if user is None else name_of(user),
        is_float=bool(node.meta.get("fxq.island")),
        sqnr_db=found.cumulative.get(name_of(node)),
        few_codes=found.codes.get(name_of(node)),
        dropped=_dropped(node),
        local_sqnr_db=found.local.get(name_of(node)),
    )


def _dropped(node: fx.Node) -> int:
    facts = FACTS.get(node.target)
    return int_arg(node, "drop") if facts is not None and facts.drops else 0


def _line(node: fx.Node) -> str:
    source = source_of(node)
    return f"{source.file}:{source.line} {source.code}".strip() if source.file else ""


def _range(node: fx.Node) -> RangeReport | None:
    found = range_of(node)
    if found is None:
        return None
    q = found.qparams
    return RangeReport(found.low, found.high, q.one_scale, q.one_zero_point, q.qmin, q.qmax, found.reason)


def _weight(node: fx.Node) -> WeightReport | None:
    q = node.meta.get("fxq.weight_qparams")
    source = node.args[1] if len(node.args) > 1 else None
    if not isinstance(q, QParams) or not isinstance(source, fx.Node):
        return None
    bits = Scheme(q.qmin, q.qmax).bits
    value = source.meta["val"]
    per_channel = len(set(q.scale)) > 1
    size, kept = cost.value_bytes(cost.stored(source)), str(node.meta.get("fxq.kept_bits", ""))
    return WeightReport(tuple(value.shape), _dtype(value), bits, per_channel, min(q.scale), max(q.scale), size, kept)


def _multipliers(module: fx.GraphModule, node: fx.Node) -> tuple[tuple[float, float], ...]:
    factors = [found.factor for found in roundings(module, node)]
    return tuple((float(factor.min()), float(factor.max())) for factor in factors)


def _float(node: fx.Node) -> FloatReport:
    plan = plan_of(node)
    reason = plan.reason if plan is not None else "no pass has planned it"
    in_vectors = node.target in PRIMITIVES.values()
    return FloatReport(name_of(node), target_name(node), reason, module_path(node), _line(node), in_vectors)


def _port(node: fx.Node, name: str) -> str:
    value = node.meta["val"]
    return f"{name}: {_dtype(value)}[{', '.join(map(str, cost.shown_shape(value)))}]"


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")
