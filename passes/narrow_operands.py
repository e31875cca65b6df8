"""Give products 8 bits of values that other operations read in 16.

    %a = add(%x, %y)   # 16 bits                 =>   %a = add(%x, %y)   # 16 bits
    %c = conv2d(%a, %w, ...); %s = add(%a, %c)        %n = alias(%a)     # 8 bits
                                                      %c = conv2d(%n, %w, ...); %s = add(%a, %c)

What a sum, a norm or a function loses by 8 bits, a product mostly does not: its own sum averages the error. And it is
products whose kernels read bytes.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from math import prod

import torch
from torch import fx

from fxquant.graph import call, clean, shape
from fxquant.ops.table import RangeRule
from fxquant.passmanager import Pass
from fxquant.plan import Plan, is_dynamic, operands, plan_of, record, required_plan
from fxquant.scheme import Scheme

aten = torch.ops.aten

_MATRIX_PRODUCTS = (aten.matmul.default, aten.bmm.default)


@dataclass(frozen=True)
class NarrowOperands(Pass):
    """Give products 8 bits of values that other operations read in 16, where the recipe names an `operand`."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: the operand of a product, made with more codes than products read. Case 2: nothing else reads it."""
        for node in list(module.graph.nodes):
            narrow = required_plan(node).operand if is_product(node) else None
            if narrow is not None:
                for operand in dict.fromkeys(operands(node)):
                    _narrow(node, operand, narrow)
        return clean(module)


def _narrow(product: fx.Node, operand: fx.Node, narrow: Scheme) -> None:
    made, plan = scheme_of(operand), plan_of(operand)
    rule = record(operand)
    is_fine = rule is not None and rule.steps(operand) > 0
    if made is None or is_fine or _codes(made) <= _codes(narrow):
        return
    if plan is not None and _is_for_these(operand, narrow):
        operand.meta["fxq.plan"] = replace(plan, activation=narrow)
    else:
        narrowed(operand, narrow, (product,))


def _is_for_these(value: fx.Node, narrow: Scheme) -> bool:
    """Whether the value has a range of its own, and products that are to read it so are all its readers."""
    found = record(value)
    if found is not None and found.range in (RangeRule.SHARED, RangeRule.JOINED):
        return False
    return all(is_product(user) and required_plan(user).operand == narrow for user in value.users)


def is_product(node: fx.Node) -> bool:
    """Whether the call sums up products: a depthwise 1x1 convolution, as a lone batch norm becomes, sums up nothing."""
    found = record(node)
    if found is None or is_dynamic(node):
        return False
    return node.target in _MATRIX_PRODUCTS or taps(node) > 1


def taps(product: fx.Node) -> int:
    """How many products with constant weights a sum has; 0 of a call that has no weights."""
    found = record(product)
    weight = None if found is None or found.weight is None else product.args[found.weight]
    if found is None or not isinstance(weight, fx.Node):
        return 0
    return prod(int(size) for axis, size in enumerate(shape(weight)) if axis != found.weight_axis)


def narrowed(value: fx.Node, scheme: Scheme, readers: Sequence[fx.Node]) -> fx.Node:
    """Put an alias with this scheme between a value and some of its readers; one for all of them."""
    graph = value.graph
    known = [user for user in value.users if is_narrowing(user) and required_plan(user).activation == scheme]
    if known:
        alias = known[0]
    else:
        with graph.inserting_before(value.next):
            alias = call(graph, aten.alias.default, value, like=value)
        alias.meta["fxq.plan"] = Plan(True, "products read fewer bits of it", scheme, scheme)
    for user in readers:
        user.replace_input_with(value, alias)
    return alias


def is_narrowing(node: fx.Node) -> bool:
    """Whether the node is such an alias: a model's own are gone by then."""
    return node.target is aten.alias.default


def scheme_of(value: fx.Node) -> Scheme | None:
    """The scheme by which a value is quantized: its own, or that of the value which it only moves."""
    while (found := record(value)) is not None and found.range is RangeRule.SHARED:
        source = operands(value)
        if not source:
            return None
        value = source[0]
    plan = value.meta.get("fxq.plan")
    return plan.activation if isinstance(plan, Plan) else None


def _codes(scheme: Scheme) -> int:
    return scheme.qmax - scheme.qmin


def widened(scheme: Scheme) -> Scheme:
    """The same scheme with 16 bits, and a range of all that was seen: there are codes enough."""
    low, high = (-(1 << 15), (1 << 15) - 1)
    return replace(scheme, qmin=-high if scheme.symmetric else low, qmax=high, observer="minmax")
