"""Quantize operands by ranges that are found while the network runs.

%c = conv2d(%x, %w_dq)   =>   %s = dynamic_scale(%x); %q = quantize_dynamic(%x, %s); %d = dequantize_dynamic(%q, %s)
                              %c = conv2d(%d, %w_dq)

The zero point is known before: the lowest code where values cannot be negative, which uses every code, else the middle.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from fxquant.arguments import node_arg
from fxquant.graph import call, clean, shape
from fxquant.ops.table import FloatOp, Fusion, RangeRule, lookup
from fxquant.passmanager import Pass
from fxquant.plan import Plan, is_dynamic, plan_of, range_of, record, required_plan
from fxquant.scheme import Scheme
from fxquant.stage import Stage

aten, fxq = torch.ops.aten, torch.ops.fxq

# Their results are the operand's values, all of them that can be the largest, and perhaps zeros.
_MOVES = (aten.max_pool2d.default, aten.max_pool1d.default, aten.pad.default, aten.constant_pad_nd.default,
          aten.reshape.default, aten.view.default, aten.permute.default, aten.transpose.int,
          aten.unsqueeze.default, aten.squeeze.dim, aten.squeeze.dims)  # fmt: skip


@dataclass(frozen=True)
class InsertDynamic(Pass):
    """Quantize operands by ranges that are found while the network runs."""

    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """A value that several operations take is quantized once."""
        readers: dict[tuple[fx.Node, Scheme], dict[fx.Node, None]] = {}
        for node in [n for n in module.graph.nodes if is_dynamic(n)]:
            rule, scheme = record(node), required_plan(node).activation
            for operand in rule.operands(node) if rule else ():
                reader, source = _before_moves(node, operand)
                readers.setdefault((source, scheme), {})[reader] = None
        order = {node: place for place, node in enumerate(module.graph.nodes)}
        for (source, scheme), several in readers.items():
            with module.graph.inserting_before(min(several, key=order.__getitem__)):
                shared = _quantized(module.graph, source, scheme)
            for reader in several:
                reader.replace_input_with(source, shared)
        return clean(module)


def _keeps_samples(move: fx.Node) -> bool:
    """Whether the first axis is that of the operand, each place of which has a scale."""
    before, after = (shape(node) for node in (node_arg(move, 0), move))
    return len(before) > 0 and str(before[0]) == str(after[0])


def _before_moves(reader: fx.Node, operand: fx.Node) -> tuple[fx.Node, fx.Node]:
    """Where the operand comes from and who reads it there: what only moves values may as well move integers."""
    while operand.target in _MOVES and len(operand.users) == 1 and _is_float_op(operand) and _keeps_samples(operand):
        plan = required_plan(operand)
        scheme = plan.activation.with_(dynamic=False)
        operand.meta["fxq.plan"] = Plan(True, "moves integers whose range is found at run time", scheme, plan.weight)
        reader, operand = operand, node_arg(operand, 0)
    return reader, operand


def _is_float_op(node: fx.Node) -> bool:
    """Whether the call is in float only because its range would be found at run time."""
    rule, plan = lookup(node), plan_of(node)
    return rule is not None and plan is not None and plan.activation.dynamic and rule.why_not(node) is None


def _quantized(graph: fx.Graph, x: fx.Node, scheme: Scheme) -> fx.Node:
    zero, *ends = codes(scheme, is_never_negative(x))
    scale = call(graph, fxq.dynamic_scale.default, x, scheme.qmax - zero, like=x)
    integers = call(graph, fxq.quantize_dynamic.default, x, scale, zero, *ends, like=x)
    return call(graph, fxq.dequantize_dynamic.default, integers, scale, zero, like=x)


def codes(scheme: Scheme, positive: bool) -> tuple[int, int, int]:
    """Zero point, lowest and highest code of values that are never negative, or of others."""
    zero = scheme.qmin if positive else (scheme.qmin + scheme.qmax + 1) // 2
    return zero, max(scheme.qmin, 2 * zero - scheme.qmax), scheme.qmax


def is_never_negative(x: fx.Node) -> bool:
    """Whether mathematics says so: of the op itself, or of one that only moves or averages such values."""
    found, rule = range_of(x), lookup(x)
    if found is not None:
        return found.low >= 0.0
    if x.target in (fxq.quantize_dynamic.default, fxq.dequantize_dynamic.default):
        return is_never_negative(node_arg(x, 0))
    if rule is None:
        return False
    return rule.ends(x)[0] >= 0.0 or (_keeps_sign(rule) and all(map(is_never_negative, rule.operands(x))))


def _keeps_sign(rule: FloatOp) -> bool:
    averages = rule.fusion is Fusion.SUM and rule.weight is None and len(rule.activations) == 1
    return rule.range in (RangeRule.SHARED, RangeRule.JOINED) or averages
