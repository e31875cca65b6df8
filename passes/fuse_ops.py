"""Let operations take up each other's values before they are rounded to 8 bits.

%c = conv2d(...); %r = relu(%c)                     =>   %c fused into %r: one clamp on the accumulators
%c = conv2d(...); %a = add(%c, %x); %r = relu(%a)   =>   %c into %a into %r: one rounding for all three
%a = add(%x, %y); %m = mul(%a, 2); %s = add(%m, %z) =>   %a into %m: one rounding for two terms, never for three
%s = sigmoid(%x); %n = neg(%s); %m = mul(%n, 2)     =>   %s into %n into %m: one lookup
%c = conv2d(...); %m = mul(%c, %gamma)              =>   %c into %m: one rounding, with a scale for each place
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from fxquant.arguments import argument
from fxquant.ops.table import Fusion
from fxquant.passmanager import Pass
from fxquant.plan import is_dynamic, is_fused, record

aten = torch.ops.aten

_DIVISIONS = (aten.div.Tensor, aten.div.Tensor_mode)
_SCALINGS = (aten.mul.Tensor, *_DIVISIONS)


@dataclass(frozen=True)
class FuseOps(Pass):
    """Let operations take up each other's values before they are rounded to 8 bits."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: clamps. Case 2: scaling by a constant. Case 3: pointwise chains. Case 4: an addition's operand."""
        for node in module.graph.nodes:
            taken = _taken_up(node)
            if taken is not None:
                taken.meta["fxq.fused_into"] = node.name
        return module


def _taken_up(user: fx.Node) -> fx.Node | None:
    """The operand that `user` takes up unrounded, if any."""
    found = record(user)
    if found is None:
        return None
    operands = [a for a in found.operands(user) if _only_for(a, user)]
    kind = _kind(user)
    if kind is Fusion.CLAMP:
        return _first(operands, Fusion.SUM, Fusion.ADD, Fusion.CLAMP, Fusion.POINTWISE)
    if user.target in _SCALINGS and len(found.operands(user)) == 1:
        by_number = not isinstance(argument(user, "other"), fx.Node)
        return _first(operands, Fusion.SUM, Fusion.ADD, *([Fusion.POINTWISE] if by_number else []))
    if kind is Fusion.POINTWISE:
        return _first(operands, Fusion.POINTWISE)
    if kind is Fusion.ADD:
        # The later operand: the other one is ready when this one's accumulators are.
        return _first([a for a in operands[::-1] if not _adds(a)], Fusion.SUM)
    return None


def _kind(node: fx.Node) -> Fusion | None:
    """What a call can take up and give: that of its record, with three exceptions.

    Adding a number is a function of one value, a quotient of two is rounded, and what scales or clamps a function of
    one value is one.
    """
    found = record(node)
    if found is None:
        return None
    operands = found.operands(node)
    if found.fusion is Fusion.ADD and len(operands) == 1:
        return Fusion.POINTWISE
    if node.target in _DIVISIONS and len(operands) == 2:
        return Fusion.NONE
    is_function = found.fusion in (Fusion.SUM, Fusion.CLAMP) and any(
        is_fused(a) and a.meta["fxq.fused_into"] == node.name and _kind(a) is Fusion.POINTWISE for a in operands
    )
    return Fusion.POINTWISE if is_function else found.fusion


def _only_for(node: fx.Node, user: fx.Node) -> bool:
    uses = sum(a is node for a in user.all_input_nodes) and list(user.args).count(node)
    waits = record(node) is not None and not is_dynamic(node) and not is_fused(node)
    return len(node.users) == 1 and uses == 1 and waits


def _adds(node: fx.Node) -> bool:
    """Whether the value, unrounded, has two terms already: it is an addition, or takes one up."""
    return _kind(node) is Fusion.ADD or any(is_fused(a) and _adds(a) for a in node.all_input_nodes)


def _first(operands: list[fx.Node], *kinds: Fusion) -> fx.Node | None:
    return next((operand for operand in operands if _kind(operand) in kinds), None)
