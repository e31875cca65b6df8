"""Nodes of a graph, at any stage, as records of the document."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.graph import constant_value, is_unpacked
from fxquant.history import passes_of
from fxquant.names import aliases_of
from fxquant.plan import plan_of, range_of
from fxquant.qparams import QParams
from fxquant.scheme import Scheme
from fxquant.source import module_path, name_of, target_name
from fxquant.targets.groups import Group, feeds, groups
from fxquant.tools import cost
from fxquant.tools.compare.compare import line_of, originals
from fxquant.tools.macs import macs
from fxquant.tools.report import explained
from fxquant.tools.roundings import Rounding, roundings
from fxquant.tools.view.document import Constant, Multiplier, Node, Value, Weight

MOST_CHANNELS = 512
_KINDS = {"placeholder": "input", "output": "output"}


def nodes_of(module: fx.GraphModule) -> list[Node]:
    """All nodes in topological order; constants are part of their consumers."""
    fused = groups(module)
    return [_node(module, node, fused) for node in module.graph.nodes if not _is_constant(node)]


def _is_constant(node: fx.Node) -> bool:
    return node.op == "get_attr" or is_unpacked(node)


def _node(module: fx.GraphModule, node: fx.Node, fused: Mapping[fx.Node, Group]) -> Node:
    value, user = node.meta.get("val"), feeds(node, fused)
    tensor = value if isinstance(value, Tensor) else None
    return Node(
        id=name_of(node),
        aliases=aliases_of(node),
        kind=_KINDS.get(node.op, "call"),
        operation=_operation(module, node),
        inputs=tuple(name_of(n) for n in node.all_input_nodes if not _is_constant(n)),
        constants=tuple(_constant(module, cost.stored(n)) for n in node.all_input_nodes if _is_constant(n)),
        module=module_path(node),
        source=line_of(node),
        originals=originals(node),
        dtype="" if tensor is None else _dtype(tensor),
        shape=() if tensor is None else cost.shown_shape(tensor),
        bytes=cost.value_bytes(node),
        macs=macs(node),
        value=_value(node),
        weight=_weight(module, node),
        multipliers=_multipliers(module, node),
        is_float=bool(node.meta.get("fxq.island")),
        feeds="" if user is None else name_of(user),
        fused_into=_fused_into(node),
        plan=_plan(node),
        passes=passes_of(node),
        # A quantized value says why itself.
        why=explained(node, name_of(node), fused) if node.op == "call_function" and range_of(node) is None else "",
    )


def _operation(module: fx.GraphModule, node: fx.Node) -> str:
    if node.op != "call_module":
        return target_name(node)
    found = module.get_submodule(str(node.target))
    describe = getattr(found, "describe", None)
    return f"observe {describe()}" if callable(describe) else type(found).__name__


def _fused_into(node: fx.Node) -> str:
    """The name of the operation that takes the value up unrounded; passes note its id."""
    wanted = node.meta.get("fxq.fused_into")
    return next((name_of(user) for user in node.users if user.name == wanted), "")


def _plan(node: fx.Node) -> str:
    """What Annotate decided: by which schemes the value and its weight become integers, or why it stays float."""
    plan = plan_of(node)
    if plan is None:
        return ""
    return f"integers: {plan.activation}; weights: {plan.weight}" if plan.integer else f"float: {plan.reason}"


def _dtype(value: Tensor) -> str:
    return str(value.dtype).removeprefix("torch.")


def _constant(module: fx.GraphModule, node: fx.Node) -> Constant:
    # A graph of somebody else's has no values on its nodes.
    value = node.meta.get("val")
    value = constant_value(module, node) if value is None else value
    return Constant(str(node.target), _dtype(value), cost.shown_shape(value), value.numel() * value.element_size())


def _value(node: fx.Node) -> Value | None:
    found = range_of(node)
    if found is None:
        return None
    q = found.qparams
    bits = Scheme(q.qmin, q.qmax).bits
    return Value(found.low, found.high, q.one_scale, q.one_zero_point, q.qmin, q.qmax, bits, found.reason)


def _weight(module: fx.GraphModule, node: fx.Node) -> Weight | None:
    q = node.meta.get("fxq.weight_qparams")
    source = node.args[1] if len(node.args) > 1 else None
    if not isinstance(q, QParams) or not isinstance(source, fx.Node) or not _is_constant(source):
        return None
    integers = constant_value(module, source)
    if integers.is_floating_point():
        return None
    rows = integers.movedim(q.axis or 0, 0).reshape(integers.shape[q.axis or 0], -1)
    scale = torch.tensor(q.scale, dtype=torch.float64)
    # numpy compares bytes as vectors, torch one by one.
    low, high = (torch.from_numpy(ends).double() for ends in (rows.numpy().min(1), rows.numpy().max(1)))
    if len(scale) == len(low):
        low, high = low * scale, high * scale
    return Weight(
        dtype=_dtype(integers),
        shape=tuple(integers.shape),
        bits=Scheme(q.qmin, q.qmax).bits,
        bytes=cost.value_bytes(cost.stored(source)),
        scale_low=min(q.scale),
        scale_high=max(q.scale),
        low=tuple(low[:MOST_CHANNELS].tolist()),
        high=tuple(high[:MOST_CHANNELS].tolist()),
    )


def _multipliers(module: fx.GraphModule, node: fx.Node) -> tuple[Multiplier, ...]:
    return tuple(_multiplier(node, found) for found in roundings(module, node))


def _multiplier(node: fx.Node, found: Rounding) -> Multiplier:
    integer, real, exact = found.multiplier, found.factor, _exact(node, found.operand)
    is_bound = exact is None or len(real) % len(exact) != 0
    if is_bound or exact is None:
        error = 0.5 / integer.double().abs().clamp_min(1)
    else:  # groups of a transposed convolution share their scales
        error = (real / exact.repeat(len(real) // len(exact)) - 1).abs()
    ends = float(real.min()), float(real.max()), int(integer.min()), int(integer.max())
    return Multiplier(*ends, found.shift, float(error.max()), is_bound)


def _exact(node: fx.Node, operand: Any) -> Tensor | None:
    """scale of the operand (times the weight's, where it is accumulators) / scale of the result; float64."""
    result = range_of(node)
    if result is None or not isinstance(operand, fx.Node):
        return None
    out = result.qparams.one_scale
    if (found := range_of(operand)) is not None:
        return torch.tensor([found.qparams.one_scale / out], dtype=torch.float64)
    weight = operand.meta.get("fxq.weight_qparams")
    source = range_of(operand.args[0]) if operand.args and isinstance(operand.args[0], fx.Node) else None
    if not isinstance(weight, QParams) or source is None:
        return None
    return torch.tensor(weight.scale, dtype=torch.float64) * source.qparams.one_scale / out
