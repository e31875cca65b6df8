"""Replace observers by quantize/dequantize pairs, and weights by quantized constants.

%c = conv2d(%x_observer, %w); %c_observer = observe(%c)
  =>  %w_q = get_attr s8; %w_dq = dequantize_channels(%w_q, %scale)
      %c = conv2d(%x_dq, %w_dq); %c_q = quantize(%c, scale, zero point); %c_dq = dequantize(%c_q, ...)
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import ClassVar

import torch
from torch import Tensor, fx

from fxquant import observers
from fxquant.arguments import argument, node_arg
from fxquant.errors import StageError
from fxquant.graph import add_constant, call, clean, constant_value, is_float, reads_values
from fxquant.kept import WEIGHT, Kept
from fxquant.ops.table import FloatOp, RangeRule
from fxquant.passmanager import Pass
from fxquant.plan import Range, is_quantized, range_of, record, required_plan
from fxquant.qparams import QParams, choose_qparams
from fxquant.scheme import Scheme
from fxquant.source import describe, name_of
from fxquant.stage import Stage
from fxquant.weight_scales import fit_scales

fxq = torch.ops.fxq


@dataclass(frozen=True)
class InsertQDQ(Pass):
    """Replace observers by quantize/dequantize pairs, and weights by quantized constants."""

    needs: ClassVar[Stage] = Stage.OBSERVED
    gives: ClassVar[Stage] = Stage.QUANTIZED

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: values. Case 2: edges into an op whose operands must share its range. Case 3: weights."""
        for node in list(module.graph.find_nodes(op="call_module")):
            node.replace_all_uses_with(node.args[0])
            module.graph.erase_node(node)
        quantized = [n for n in module.graph.nodes if is_quantized(n)]
        for node in quantized:
            found = range_of(node)
            if found is None:
                raise StageError(f"{describe(node)} has no range: calibrate, then run PropagateRanges")
            _pair_after(module.graph, node, found)
        for node in [n for n in module.graph.nodes if n.op == "call_function"]:
            _requantize_edges(module.graph, node)
            _quantize_weight(module, node)
        return clean(module)


def _pair_after(graph: fx.Graph, node: fx.Node, found: Range) -> None:
    after = node
    while after.next.op in ("placeholder", "get_attr"):
        after = after.next
    with graph.inserting_before(after.next):
        real = add_pair(graph, node, found)
    keep = real.args[0]
    if node.op == "get_attr":
        _replace_operand(node, real)
    else:
        node.replace_all_uses_with(real, delete_user_cb=lambda user: user is not keep and reads_values(user))


def _replace_operand(constant: fx.Node, real: fx.Node) -> None:
    """Only where a constant is an operand: its other readers take it for a weight, a bias, or for what it is."""
    for user in list(constant.users):
        rule = record(user)
        takes_integers = rule is not None and constant in rule.operands(user)
        for position in rule.activations if rule is not None and takes_integers else ():
            if position < len(user.args):
                chosen = fx.map_arg(user.args[position], lambda n: real if n is constant else n)
                user.update_arg(position, chosen)


def add_pair(graph: fx.Graph, node: fx.Node, found: Range) -> fx.Node:
    """Round the value `node` by its range: the real numbers that its integers stand for."""
    q = found.qparams
    integers = call(graph, fxq.quantize.default, node, q.one_scale, q.one_zero_point, q.qmin, q.qmax, like=node)
    integers.meta["fxq.range"] = found
    real = call(graph, fxq.dequantize.default, integers, q.one_scale, q.one_zero_point, like=node)
    real.meta["fxq.range"] = found
    return real


def _requantize_edges(graph: fx.Graph, node: fx.Node) -> None:
    rule, wanted = record(node), range_of(node)
    if rule is None or wanted is None or rule.range not in (RangeRule.SHARED, RangeRule.JOINED):
        return
    for operand in dict.fromkeys(rule.operands(node)):
        found = range_of(operand)
        if found is not None and (found.of, found.qparams) != (wanted.of, wanted.qparams):
            with graph.inserting_before(node):
                reason = f"requantized for {name_of(node)}: {wanted.reason}"
                moved = replace(wanted, reason=reason)
                node.replace_input_with(operand, add_pair(graph, operand, moved))


def _quantize_weight(module: fx.GraphModule, node: fx.Node) -> None:
    rule = record(node)
    if rule is None or rule.weight is None:
        return
    source = node_arg(node, rule.weight)
    kept = Kept(str(source.target), constant_value(module, source).float())
    replace_weight(module, node, kept, weight_qparams(module, node, rule, kept.value), source.name)


def replace_weight(module: fx.GraphModule, node: fx.Node, kept: Kept, qparams: QParams, name: str) -> None:
    """Give the layer `node` the weight `kept` as integers called after `name`, and as the numbers that these are."""
    rule = record(node)
    if rule is None or rule.weight is None:
        raise StageError(f"{describe(node)} has no weight that becomes integers")
    with module.graph.inserting_before(node):
        integers = add_constant(module, qparams.quantize(kept.value), f"{name}_q")
        scale = add_constant(module, torch.tensor(qparams.scale), f"{name}_scale")
        real = call(module.graph, fxq.dequantize_channels.default, integers, scale, rule.weight_axis, like=node)
    real.meta["fxq.weight_qparams"] = qparams
    real.meta[WEIGHT] = kept
    node.meta["fxq.weight_qparams"] = qparams
    node.update_arg(rule.weight, real)


def weight_qparams(
    module: fx.GraphModule, node: fx.Node, rule: FloatOp, weight: Tensor, scheme: Scheme | None = None
) -> QParams:
    """Symmetric parameters per output channel, with scales that also let the bias fit its 32 bits.

    `scheme` stands in for that of the node's plan.
    """
    axis, scheme = rule.weight_axis, scheme or required_plan(node).weight
    scheme = scheme if scheme.axis is None else scheme.with_(axis=axis)
    observer = observers.make(scheme, f"the weight of {describe(node)}")
    observer(weight)
    low, high = observer.range()
    scales = list(choose_qparams(low.tolist(), high.tolist(), scheme).scale)
    if scheme.axis is None:
        scales = scales * weight.shape[axis]
    scales = fit_scales(node, weight, axis, scales, scheme, _bias(module, node, rule))
    return QParams(tuple(scales), (0,) * len(scales), scheme.qmin, scheme.qmax, axis)


def _bias(module: fx.GraphModule, node: fx.Node, rule: FloatOp) -> Tensor | None:
    bias = None if rule.bias is None else argument(node, rule.bias)
    return constant_value(module, bias) if isinstance(bias, fx.Node) and is_float(bias) else None
