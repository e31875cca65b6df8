"""What passes write on nodes for later passes to read: the plan of a node, and the range of a value."""

from __future__ import annotations

from dataclasses import dataclass

from torch import fx

from fxquant.errors import StageError
from fxquant.graph import is_float
from fxquant.names import layer_of
from fxquant.ops.table import FloatOp, lookup
from fxquant.qparams import QParams
from fxquant.scheme import Scheme
from fxquant.source import describe


@dataclass(frozen=True)
class Plan:
    """How one call is to be computed, and why not in integers if so.

    `operand` is the scheme of what the call, a product, reads of values with more codes. `share_limit` and `strict` are
    the recipe's, for passes that decide when ranges are known.
    """

    integer: bool
    reason: str
    activation: Scheme
    weight: Scheme
    share_limit: float = 2.0
    strict: bool = False
    operand: Scheme | None = None


@dataclass(frozen=True)
class Range:
    """The parameters of one quantized value, and the reason for them.

    `of` is the id of the value whose range it is: values that share one have the same. `is_known`: no data decided it.
    """

    qparams: QParams
    low: float
    high: float
    reason: str
    of: str = ""
    is_known: bool = False


def plan_of(node: fx.Node) -> Plan | None:
    """The plan that Annotate wrote, if any."""
    found = node.meta.get("fxq.plan")
    return found if isinstance(found, Plan) else None


def required_plan(node: fx.Node) -> Plan:
    """The plan of the node; raises StageError where Annotate has not written one."""
    found = plan_of(node)
    if found is None:
        raise StageError(f"{describe(node)} has no plan: run Annotate before this pass")
    return found


def required_range(node: fx.Node) -> Range:
    """The range of the node's value; raises StageError where it has none."""
    found = range_of(node)
    if found is None:
        raise StageError(f"{describe(node)} has no range: only PropagateRanges makes some")
    return found


def range_of(node: fx.Node) -> Range | None:
    """The range that PropagateRanges found for the node's value, if any."""
    found = node.meta.get("fxq.range")
    return found if isinstance(found, Range) else None


def is_integer(node: fx.Node) -> bool:
    """Whether the call is planned to be computed in integers."""
    plan = plan_of(node)
    return plan is not None and plan.integer


def is_dynamic(node: fx.Node) -> bool:
    """Whether the call takes integers whose range is found at run time; its result is float."""
    plan = plan_of(node)
    return plan is not None and plan.integer and plan.activation.dynamic


def record(node: fx.Node) -> FloatOp | None:
    """The op table's record of a call that is planned in integers."""
    return lookup(node) if is_integer(node) else None


def is_fused(node: fx.Node) -> bool:
    """Whether the node's value is taken up unrounded by its only user."""
    return "fxq.fused_into" in node.meta


def fused(node: fx.Node) -> list[fx.Node]:
    """The operations that are computed at once with `node` as their last one, in order, the first giving its name."""
    found = [node]
    while taken := [a for a in found[0].all_input_nodes if a.meta.get("fxq.fused_into") == found[0].name]:
        found.insert(0, taken[0])
    return found


def fused_name(node: fx.Node) -> str:
    """What these operations are called: a layer's name is that of the product, not of the clamp behind it."""
    return layer_of(fused(node)[0])


def operands(node: fx.Node) -> list[fx.Node]:
    """The float values that an integer call takes as activations, with a range that is known before it runs."""
    found = None if is_dynamic(node) else record(node)
    return [a for a in found.operands(node) if is_float(a)] if found else []


def is_quantized(node: fx.Node) -> bool:
    """Whether the node's value becomes integers: made by an integer call, or taken by one, and not fused."""
    if not is_float(node) or node.op == "output" or is_fused(node):
        return False
    return (is_integer(node) and not is_dynamic(node)) or any(node in operands(user) for user in node.users)
