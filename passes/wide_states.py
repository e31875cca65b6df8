"""Which values keep 16 bits whatever the recipe: states of recurrent layers, what is added to them, long softmaxes.

lstm_states(%gates, %h, %c, ...)   =>   %gates, %c and the result have the scheme s16 symmetric

softmax(%x)                        =>   the result has 4095 steps from 0 to 1 where a row is too long for 8 bits

What only moves such a value, on the way to a port or from one, keeps them, too.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

from torch import fx

from fxquant.arguments import node_arg
from fxquant.graph import is_float, shape
from fxquant.ops.table import FloatOp, RangeRule
from fxquant.plan import Plan, is_dynamic, plan_of, record
from fxquant.scheme import Scheme


def widen(module: fx.GraphModule) -> None:
    """Change the plans of these values. Extremes alone set their range: there are codes enough."""
    _refine(module)
    wide: set[fx.Node] = set()
    recurrences = [(node, rule) for node in module.graph.nodes if (rule := _recurrence(node)) is not None]
    for node, rule in recurrences:
        wide |= {node} if rule.is_wide else set()
        wide |= {node_arg(node, position) for position in rule.wide}
    waiting = list(wide)
    while waiting:
        for other in _alike(waiting.pop()):
            if other not in wide:
                wide.add(other)
                waiting.append(other)
    for node in wide:
        if (plan := plan_of(node)) is not None:
            node.meta["fxq.plan"] = replace(plan, activation=_wide(plan.activation))
    for node, _ in recurrences:
        node.meta["fxq.plan"] = _by_words(plan_of(node))


def _refine(module: fx.GraphModule) -> None:
    for node in module.graph.nodes:
        rule, plan = record(node), plan_of(node)
        if rule is None or plan is None or is_dynamic(node) or not (steps := rule.steps(node)):
            continue
        if plan.activation.bits > 8 and plan.operand is None:
            continue
        fine = plan.activation.with_(qmin=-steps, qmax=steps, symmetric=True)
        node.meta["fxq.plan"] = replace(plan, activation=fine)
        node.meta["fxq.wide"] = f"in rows of {shape(node)[-1]} the mean value is no more than a step of 8 bits"


def _recurrence(node: fx.Node) -> FloatOp | None:
    rule = None if is_dynamic(node) else record(node)
    return rule if rule is not None and rule.carries is not None else None


def _by_words(plan: Plan | None) -> Plan:
    """Their products take operands of 16 bits: no scale need leave room for sums of bytes."""
    assert plan is not None  # a record was found by it
    return replace(plan, weight=plan.weight.with_(products=1, narrow=False))


def _wide(scheme: Scheme) -> Scheme:
    return scheme.with_(qmin=-(1 << 15), qmax=(1 << 15) - 1, symmetric=True, observer="minmax")


def _alike(node: fx.Node) -> Iterator[fx.Node]:
    """The values that have one range with this one, as far as operators tell."""
    if _shares(node):
        yield from (a for a in node.all_input_nodes if is_float(a))
    for user in node.users:
        if _shares(user):
            yield user


def _shares(node: fx.Node) -> bool:
    rule = None if is_dynamic(node) else record(node)
    return rule is not None and rule.range in (RangeRule.SHARED, RangeRule.JOINED)
