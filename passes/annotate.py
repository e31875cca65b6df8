"""Decide for every float operation whether it is computed in integers, by which schemes, and if not, why not.

%y = aten.softmax(%x, 1)   =>   %y = aten.softmax(%x, 1)   # plan: float, "softmax over another axis than the last"
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.errors import CalibrationError, UnsupportedOpError
from fxquant.graph import constant_value, is_float, reads_values
from fxquant.ops.table import FloatOp, Fusion, RangeRule, lookup
from fxquant.passes.wide_states import widen
from fxquant.passmanager import Pass
from fxquant.plan import Plan
from fxquant.recipe import Recipe
from fxquant.sensitive import sensitive
from fxquant.source import describe, target_name

_MATRIX_PRODUCTS = (torch.ops.aten.matmul.default, torch.ops.aten.bmm.default)


@dataclass(frozen=True)
class Annotate(Pass):
    """Decide for every float operation whether it is computed in integers, by which schemes, and if not, why not."""

    recipe: Recipe = field(default_factory=Recipe)

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Write a Plan on every call that makes or reads floats; under a strict recipe refuse those left in float."""
        self.recipe.check(module.graph)
        refused, limits = [], (self.recipe.share_limit, self.recipe.strict)
        careful = sensitive(module.graph)
        for node in module.graph.nodes:
            if node.op != "call_function" or not (_makes_float(node) or _takes_float(node)):
                continue
            reason = self._why_float(node)
            _refuse_lost(module, node)
            schemes = self.recipe.activation_for(node), self.recipe.weight_for(node, node in careful)
            if schemes[1].bits > self.recipe.weight_for(node).bits:
                node.meta["fxq.kept_bits"] = careful[node]
            operand = self.recipe.operand_for(node)
            node.meta["fxq.plan"] = Plan(
                reason is None, reason or "has an integer spelling", *schemes, *limits, operand
            )
            if reason is not None:
                refused.append(f"  {describe(node)}\n    {reason}")
        for node in module.graph.find_nodes(op="placeholder"):
            schemes = self.recipe.activation_for(node), self.recipe.weight_for(node)
            node.meta["fxq.plan"] = Plan(False, "an input", *schemes, *limits)
        widen(module)
        if refused and self.recipe.strict:
            raise UnsupportedOpError(
                "the recipe is strict, and these operations would stay in float:\n" + "\n".join(refused)
            )
        return module

    def _why_float(self, node: fx.Node) -> str | None:
        rule = self.recipe.float_rule(node)
        if rule is not None:
            return f"the recipe keeps {rule.match!r} in float"
        record = lookup(node)
        if record is None:
            return f"{target_name(node)} has no integer spelling in the op table"
        if not isinstance(node.meta["val"], Tensor):
            return "it gives more than one tensor"
        wide = {str(v.meta["val"].dtype) for v in (node, *record.operands(node)) if is_float(v)} - {"torch.float32"}
        if wide:
            return f"it computes in {', '.join(sorted(wide))}, not in float32"
        if any(0 in v.meta["val"].shape for v in (node, *record.operands(node))):
            return "it computes on tensors without elements"
        if any(not is_float(a) for a in record.operands(node)):
            return "one of its operands is not a float tensor"
        if self.recipe.activation_for(node).dynamic and not takes_dynamic(record, node):
            return (
                "the recipe wants ranges found at run time, which only products, and sums and means of one tensor, take"
            )
        return record.why_not(node)


def _refuse_lost(module: fx.GraphModule, node: fx.Node) -> None:
    """A weight that is no number any more spoils all that comes after it: it is told before data are looked at."""
    rule = lookup(node)
    roles = {} if rule is None else {"weight": rule.weight, "bias": rule.bias}
    for role, place in roles.items():
        constant = node.args[place] if place is not None and place < len(node.args) else None
        if not isinstance(constant, fx.Node) or constant.op != "get_attr" or not is_float(constant):
            continue
        value = constant_value(module, constant)
        if lost := int((~value.isfinite()).sum()):
            raise CalibrationError(
                f"{lost} of {value.numel()} values of the {role} {constant.target} of {describe(node)} are nan or "
                "infinite: training has lost them; load an earlier checkpoint"
            )


def takes_dynamic(record: FloatOp, node: fx.Node) -> bool:
    """Whether the op gives sums that only need to be scaled: of one operand's integers, or of products of two values.

    Samples are axis 0 of the result, and of both operands of a product.
    """
    sums = record.fusion is Fusion.SUM and record.range is RangeRule.OBSERVED
    if not sums or not _has_samples_first(node.meta["val"]):
        return False
    if node.target in _MATRIX_PRODUCTS:
        return _multiplies_samples(record.operands(node), node.meta["val"])
    return len(record.activations) == 1


def _multiplies_samples(operands: list[fx.Node], result: Tensor) -> bool:
    """Whether both are batches of matrices, computed from samples, whose first axis is the result's."""
    values = [operand.meta["val"] for operand in operands if operand.op != "get_attr"]
    sizes = {str(value.shape[0]) if value.ndim == result.ndim else "" for value in (*values, result)}
    return len(values) == 2 and result.ndim > 2 and len(sizes) == 1


def _has_samples_first(value: Tensor) -> bool:
    """Whether each place of the first axis is a sample: a batch that was moved elsewhere has no scale of its own."""
    free: dict[int, Any] = {axis: size for axis, size in enumerate(value.shape) if isinstance(size, torch.SymInt)}
    return value.ndim > 1 and (not free or (list(free) == [0] and bool(free[0].node.expr.is_symbol)))


def _takes_float(node: fx.Node) -> bool:
    return reads_values(node) and any(is_float(source) for source in node.all_input_nodes)


def _makes_float(node: fx.Node) -> bool:
    value = node.meta.get("val")
    several = value if isinstance(value, (list, tuple)) else [value]
    return any(isinstance(v, Tensor) and v.dtype.is_floating_point for v in several)
