"""Fold quantize/dequantize pairs and the float operations between them into integer primitives.

    %x_dq = dequantize(%x_q, ...); %c = conv2d(%x_dq, %w_dq, %b); %r = relu(%c); %r_q = quantize(%r, ...)
      =>  %acc = fxq.conv(%x_q, %w, %b_s32, ...); %r_q = fxq.requantize(%acc, %multiplier, ...)

Every float op is respelled by its record in the op table; a `quantize` rounds whatever it finds (accumulators, a
lookup, integers of another scale). What has no integer spelling stays as a float island between a dequantize and a
quantize.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import ClassVar

import torch
from torch import fx

from fxquant.arguments import int_arg, int_args, node_arg, nodes_arg
from fxquant.errors import StageError
from fxquant.graph import PROVENANCE, absorb, clean, constant_value, is_float, reads_values
from fxquant.names import ACCUMULATORS, belong, is_conversion, layer_of
from fxquant.ops.spelling import Float, Int, Speller, Sum, Value, Weight, spelled
from fxquant.ops.table import FloatOp
from fxquant.passmanager import Pass
from fxquant.plan import fused, fused_name, is_dynamic, range_of, record, required_plan
from fxquant.qparams import QParams
from fxquant.source import describe, name_of
from fxquant.stage import Stage

fxq = torch.ops.fxq

_DYNAMIC = (fxq.dynamic_scale.default, fxq.quantize_dynamic.default, fxq.dequantize_dynamic.default)


@dataclass(frozen=True)
class FoldQDQ(Pass):
    """Fold quantize/dequantize pairs and the float operations between them into integer primitives."""

    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.INTEGER

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """One sweep in topological order, remembering what every value has become."""
        speller = Speller(module)
        for node in list(module.graph.nodes):
            with module.graph.inserting_before(node):
                _fold(speller, node)
        return clean(module)


def _fold(s: Speller, node: fx.Node) -> None:
    if node.target is fxq.quantize.default:
        _round(s, node)
    elif node.target in _DYNAMIC:
        _of_run_time(s, node)
    elif not is_float(node) and (rule := record(node)) is not None:
        _decide(s, node, rule)
    elif node.op == "output" or not is_float(node):
        # Indices, comparisons and tuples that are computed from floats are part of an island.
        if node.op == "call_function" and reads_values(node) and any(is_float(a) for a in node.all_input_nodes):
            node.meta["fxq.island"] = True
    elif node.target is fxq.dequantize.default:
        _real_again(s, node)
    elif node.target is fxq.dequantize_channels.default:
        integers, scale = (constant_value(s.module, node_arg(node, position)) for position in (0, 1))
        s.values[node] = Weight(integers, scale, all(required_plan(user).weight.narrow for user in node.users))
    elif (rule := record(node)) is not None:
        s.values[node] = spelled(rule, s, node)
        _note_origin(s.values[node], node)
        if is_dynamic(node):
            _real_at_once(s, node, rule)
    else:
        _leave_real(s, node)


def _decide(s: Speller, node: fx.Node, rule: FloatOp) -> None:
    """A comparison gives truths at once: nothing rounds them."""
    truths = spelled(rule, s, node)
    if not isinstance(truths, Int):
        raise StageError(f"{describe(node)} gives no float, and its record no integers")
    node.replace_all_uses_with(truths.node)


def _leave_real(s: Speller, node: fx.Node) -> None:
    s.values[node] = Float(node)
    if _is_joined_outside(node):
        joined = s.call(fxq.join.default, nodes_arg(node, "tensors"), int_arg(node, "dim"), like=node)
        joined.meta["fxq.plan"] = required_plan(node)
        node.replace_all_uses_with(joined)
        s.values[joined] = Float(joined)
    elif node.op == "call_function":
        node.meta["fxq.island"] = True


def _is_joined_outside(node: fx.Node) -> bool:
    """Whether a concat joins real numbers, which nothing but outputs read."""
    if node.target is not torch.ops.aten.cat.default or not all(user.op == "output" for user in node.users):
        return False
    return all(part.target is fxq.dequantize.default for part in nodes_arg(node, "tensors"))


def _round(s: Speller, node: fx.Node) -> None:
    source, found = node_arg(node, 0), range_of(node)
    if found is None:
        raise StageError(f"{describe(node)} has no range: only InsertQDQ makes quantize nodes")
    value = s.known(source)
    if isinstance(value, Float) and source.op == "get_attr":
        integers = found.qparams.quantize(constant_value(s.module, source))
        s.values[node] = Int(s.constant(integers, source, "q"), found.qparams)
    elif isinstance(value, Float):
        s.values[node] = Int(node, found.qparams)
    else:
        rounded = s.rounded(value, found.qparams, source)
        s.values[node] = Int(rounded, found.qparams)
    made = s.int_(node).node
    _name(made, source, value)
    made.meta.setdefault("fxq.range", found)
    made.meta.setdefault("fxq.origin", name_of(source))


def _name(made: fx.Node, source: fx.Node, value: Value) -> None:
    """Integers have name and source of the first operation that they compute; other roundings of them belong to it."""
    if "fxq.origin" in made.meta:
        absorb(made, *fused(source))
    elif isinstance(value, Int) and made is not value.node:
        belong(made, layer_of(value.node))
    elif source.op == "call_function" and not is_conversion(made):
        parts = fused(source)
        made.meta["fxq.name"] = fused_name(source)
        made.meta.pop("fxq.layers", None)  # which are those of the last part alone
        absorb(made, *parts)
        made.meta |= {key: parts[0].meta[key] for key in PROVENANCE if key in parts[0].meta}


def _note_origin(value: Value, node: fx.Node) -> None:
    """Accumulators know the float operation that they are, and how its weight was quantized."""
    for term in value.terms if isinstance(value, Sum) else ():
        if "fxq.origin" not in term.node.meta:
            belong(term.node, name_of(node), ACCUMULATORS)
            term.node.meta["fxq.origin"] = name_of(node)
            term.node.meta |= {
                key: node.meta[key] for key in ("fxq.weight_qparams", "fxq.kept_bits") if key in node.meta
            }


def _of_run_time(s: Speller, node: fx.Node) -> None:
    if node.target is fxq.quantize_dynamic.default:
        zero, qmin, qmax = int_args(node, 2, 3, 4)
        s.values[node] = Int(node, QParams.tensor(1.0, zero, qmin, qmax), node_arg(node, 1))
    elif node.target is fxq.dequantize_dynamic.default:
        s.values[node] = s.int_(node.args[0])
    else:
        s.values[node] = Float(node)


def _real_at_once(s: Speller, node: fx.Node, rule: FloatOp) -> None:
    """Where the operand's scale is found at run time, so must be the result's: it is float until then."""
    value, operands = s.values[node], rule.operands(node)
    scales = [by for operand in operands if (by := s.int_(operand).by) is not None]
    if not isinstance(value, Sum) or len(scales) < len(operands):
        raise StageError(f"{describe(node)} takes no range at run time: only Annotate plans that")
    by = scales[0] if len(scales) == 1 else s.call(fxq.scale_product.default, *scales, like=node)
    real = s.real(value, by, node)
    node.replace_all_uses_with(real)
    s.values[real] = Float(real)


def _real_again(s: Speller, node: fx.Node) -> None:
    integers = s.int_(node.args[0])
    node.update_arg(0, integers.node)
    belong(node, layer_of(integers.node))
    s.values[node] = integers
