"""Find the scale and zero point of every quantized value, with the reason.

    %p = max_pool(%c_observer)   =>   %p ranges as %c: "shared with conv2d through max_pool2d"

A solver, not a heuristic. Values are variables; ops that only move values unify them; a concat unifies its parts unless
that would widen one of them beyond the recipe's limit (then a requantize is placed on that edge, by InsertQDQ); ranges
that mathematics knows are used as they are, unless far less was seen; everything else takes what its observer saw,
within the bounds of its op. Masks end where softmax sees nothing more (`fxquant.scores`).
"""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field, replace
from typing import ClassVar

import torch
from torch import fx

from fxquant.arguments import node_arg
from fxquant.errors import UnsupportedOpError
from fxquant.graph import constant_value
from fxquant.observers.base import Observer
from fxquant.ops.table import FloatOp, RangeRule
from fxquant.passmanager import Pass
from fxquant.plan import Range, fused_name, operands, plan_of, range_of, record, required_plan
from fxquant.qparams import QParams, choose_qparams
from fxquant.scheme import Scheme
from fxquant.scores import Span, spans
from fxquant.sensitive import FEW
from fxquant.source import describe, name_of, target_name
from fxquant.stage import Stage

# Where so much of a known range was seen, all of it is taken: it costs less than half a bit, and nothing is clipped.
MOSTLY = 0.75
# What reads constants as weights, though these are operands like others to it.
_REAL = torch.ops.fxquant
_WEIGHTS = (torch.ops.aten.matmul.default, torch.ops.aten.bmm.default, torch.ops.aten.embedding.default)

# Of every value that has a range: the name of the first one of those that share it.
SET = "fxq.set"


@dataclass
class _Set:
    """Values that have one range: its ends, the narrowest range of any member, and how it came about."""

    low: float
    high: float
    narrowest: float
    scheme: Scheme
    reason: str
    members: list[fx.Node] = field(default_factory=list)
    is_known: bool = False


@dataclass(frozen=True)
class PropagateRanges(Pass):
    """Find the scale and zero point of every quantized value, with the reason."""

    needs: ClassVar[Stage] = Stage.OBSERVED
    gives: ClassVar[Stage] = Stage.OBSERVED

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """One sweep in topological order: sets are made, shared and joined, then each gets its parameters."""
        sets: dict[fx.Node, _Set] = {}
        doubts: dict[str, str] = {}
        for node in module.graph.nodes:
            if (observer := _observer(module, node)) is not None:
                found = _observed(observer, node)
                _carry(module, node_arg(node, 0), found, sets)
                if doubt := observer.doubt():
                    found.reason += f"; {doubt}"
                    doubts[name_of(node_arg(node, 0))] = doubt
                sets.update(dict.fromkeys(found.members, found))
            elif (rule := record(node)) is not None:
                self._follow(module, node, rule, sets)
        _keep_visible(module.graph, sets)
        for found in {id(s): s for s in sets.values()}.values():
            qparams = choose_qparams([found.low], [found.high], found.scheme)
            for member in found.members:
                member.meta["fxq.range"] = _range(found, member, qparams)
                member.meta[SET] = name_of(found.members[0])
        self._leave_misfits(module)
        _tell(doubts)
        return module

    def _leave_misfits(self, module: fx.GraphModule) -> None:
        """What has no integer spelling at these ranges stays in float; its operands and its result keep theirs."""
        for node in module.graph.nodes:
            rule, plan = record(node), plan_of(node)
            reason = rule.misfits(module, node) if rule and plan and range_of(node) else None
            if reason is None or plan is None:
                continue
            if plan.strict:
                raise UnsupportedOpError(f"the recipe is strict, and {describe(node)} would stay in float: {reason}")
            node.meta["fxq.plan"] = replace(plan, integer=False, reason=reason)

    def _follow(self, module: fx.GraphModule, node: fx.Node, rule: FloatOp, sets: dict[fx.Node, _Set]) -> None:
        for constant in (a for a in operands(node) if a.op == "get_attr" and a not in sets):
            sets[constant] = _constant(module, constant, node)
        if rule.range is RangeRule.KNOWN:
            sets[node] = _known(node, rule)
        elif rule.range is RangeRule.SHARED:
            found = sets[operands(node)[0]]
            sets[node] = found
            found.members.append(node)
            node.meta["fxq.inherited"] = f"shared with {fused_name(found.members[0])} through {target_name(node)}"
        elif rule.range is RangeRule.JOINED:
            self._join(node, sets)

    def _is_too_wide(self, node: fx.Node, parts: list[_Set], width: float) -> bool:
        """Whether a part would lose too many codes to one range: outputs then get the parts joined as real numbers."""
        narrowest = min(part.narrowest for part in parts)
        if width <= required_plan(node).share_limit * narrowest:
            return False
        times = width / narrowest
        reason = f"only outputs read it, and one range for all would be {times:.3g} times as wide as that of a part"
        node.meta["fxq.plan"] = replace(required_plan(node), integer=False, reason=reason)
        return True

    def _join(self, node: fx.Node, sets: dict[fx.Node, _Set]) -> None:
        parts = {id(sets[a]): sets[a] for a in operands(node)}
        ordered = sorted(parts.values(), key=lambda s: s.low - s.high)
        low, high = min(s.low for s in ordered), max(s.high for s in ordered)
        is_returned = all(user.op == "output" for user in node.users)
        if is_returned and len(ordered) > 1 and self._is_too_wide(node, ordered, high - low):
            return
        scheme = required_plan(node).activation
        alike = [part for part in ordered if _has_codes(part.scheme, scheme)]
        joined = alike[0] if alike else _make(low, high, scheme, f"of other bits than its parts: {scheme}")
        for part in alike[1:]:
            widened = (high - low) / part.narrowest
            if widened > required_plan(node).share_limit:
                part.reason += f"; kept its own, as {name_of(node)} would widen it {widened:.3g} times"
                continue
            _unite(joined, part, sets)
        joined.low, joined.high = low, high
        names = ", ".join(map(fused_name, operands(node)))
        joined.reason += f"; joined by {name_of(node)} over {names}"
        joined.members.append(node)
        sets[node] = joined


def _has_codes(scheme: Scheme, wanted: Scheme) -> bool:
    """Whether values of one scheme can be joined as they are to those of another: both have the same codes."""
    return (scheme.qmin, scheme.qmax, scheme.symmetric) == (wanted.qmin, wanted.qmax, wanted.symmetric)


def _keep_visible(graph: fx.Graph, sets: dict[fx.Node, _Set]) -> None:
    """Masks and scores before them end where softmax sees nothing more."""
    visible = spans(graph, {node: Span(found.low, found.high) for node, found in sets.items()})
    for node, span in visible.items():
        found = sets.get(node)
        if found is not None and found.members[0] is node and found.low < span.low:
            found.low = min(span.low, 0.0)
            found.reason += f", below {found.low:.4g} no score is visible to softmax"


def _carry(module: fx.GraphModule, node: fx.Node, found: _Set, sets: dict[fx.Node, _Set]) -> None:
    """The state that a recurrence goes on from has the range of those that it gives: they may come in again."""
    rule = record(node)
    if rule is None or rule.carries is None:
        return
    state = sets[node_arg(node, rule.carries)]
    found.low, found.high = min(found.low, state.low), max(found.high, state.high)
    _unite(found, state, sets)
    _span_hidden(module, node, sets)


def _span_hidden(module: fx.GraphModule, node: fx.Node, sets: dict[fx.Node, _Set]) -> None:
    """Outputs of an LSTM that nobody reads are computed with the range of what they begin with: that of a tanh."""
    if node.target is not _REAL.lstm_states.default:
        return
    readers = {user.target for copy in (node, *node.users) for user in copy.users}
    if _REAL.lstm_outputs.default in readers:
        return
    begun, projection = sets[node_arg(node, 1)], node.args[6] if len(node.args) > 6 else None
    bound = float(constant_value(module, projection).abs().sum(1).max()) if isinstance(projection, fx.Node) else 1.0
    begun.low, begun.high = min(begun.low, -bound), max(begun.high, bound)
    begun.reason += f"; goes on within {bound:.4g} of zero in {name_of(node)}"


def _unite(into: _Set, other: _Set, sets: dict[fx.Node, _Set]) -> None:
    into.narrowest = min(into.narrowest, other.narrowest)
    into.members.extend(other.members)
    into.is_known = into.is_known and other.is_known
    into.reason += f"; {other.reason}"
    for node, found in list(sets.items()):
        if found is other:
            sets[node] = into


def _tell(doubts: dict[str, str]) -> None:
    """One warning for all observers that are a bad choice for what they have seen."""
    if doubts:
        name, doubt = next(iter(doubts.items()))
        others = f", and so it is with {len(doubts) - 1} more values" if len(doubts) > 1 else ""
        remedy = 'take the observer "mse", or quantize with effort="balanced"'
        warnings.warn(f"the range of {name} cuts what may matter: {doubt}{others}; {remedy}", stacklevel=2)


def _observer(module: fx.GraphModule, node: fx.Node) -> Observer | None:
    found = module.get_submodule(str(node.target)) if node.op == "call_module" else None
    return found if isinstance(found, Observer) else None


def _observed(observer: Observer, node: fx.Node) -> _Set:
    """The range of a value and of its observer's result, which is the same value."""
    source, ends = node_arg(node, 0), observer.range()
    low, high = float(ends[0]), float(ends[1])
    rule = record(source)
    least, most = rule.ends(source) if rule else (float("-inf"), float("inf"))
    low, high = max(low, least), min(high, most)
    reason = f"{observer.scheme.observer} over {observer.count} values"
    if rule and rule.range is RangeRule.BOUNDED and high - low >= MOSTLY * (most - least):
        return _known(source, rule, node)
    if (least, most) != (float("-inf"), float("inf")):
        reason += f", and {target_name(source)} gives [{least:g}, {most:g}]"
    return _make(low, high, observer.scheme, reason, source, node)


def _known(node: fx.Node, rule: FloatOp, *others: fx.Node) -> _Set:
    low, high = rule.ends(node)
    reason = f"known: {target_name(node)} gives [{low:g}, {high:g}]"
    return replace(_make(low, high, required_plan(node).activation, reason, node, *others), is_known=True)


def _constant(module: fx.GraphModule, node: fx.Node, user: fx.Node) -> _Set:
    """Matrices and tables of few bits have those of weights; what is added to values has those of values."""
    tensor, plan = constant_value(module, node), required_plan(user)
    scheme = plan.activation
    if user.target in _WEIGHTS and plan.weight.bits <= FEW:
        scheme = scheme.with_(qmin=plan.weight.qmin, qmax=plan.weight.qmax, symmetric=True)
    return _make(float(tensor.min()), float(tensor.max()), scheme, "a constant's own values", node)


def _make(low: float, high: float, scheme: Scheme, reason: str, *members: fx.Node) -> _Set:
    low, high = min(low, 0.0), max(high, 0.0)
    # Zeros alone are exact in every range: nothing is too wide for them.
    return _Set(low, high, high - low or math.inf, scheme, reason, list(members))


def _range(found: _Set, member: fx.Node, qparams: QParams) -> Range:
    reason = str(member.meta.get("fxq.inherited", found.reason))
    if "fxq.wide" in member.meta:
        reason += f"; 16 bits: {member.meta['fxq.wide']}"
    return Range(qparams, found.low, found.high, reason, found.members[0].name, found.is_known)


def why(node: fx.Node) -> str:
    """The reason for the range of a value, in a sentence."""
    found = node.meta.get("fxq.range")
    if not isinstance(found, Range):
        return f"{describe(node)} has no range: it is not quantized"
    return f"{name_of(node)}: [{found.low:.6g}, {found.high:.6g}] ({found.reason}) -> {found.qparams}"
