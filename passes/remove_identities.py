"""Drop operations that change nothing at inference.

%b = aten.clone(%a); %c = aten.relu(%b)           =>   %c = aten.relu(%a)
%b = aten.contiguous(%a); %c = aten.view(%b, ...)   =>   %c = aten.reshape(%a, ...)
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from fxquant.functional import CHECKS
from fxquant.graph import absorb, clean
from fxquant.passmanager import Pass

aten = torch.ops.aten

_IDENTITIES = frozenset(
    {
        aten.clone.default,
        aten.alias.default,
        aten.detach.default,
        aten.contiguous.default,
        aten.lift_fresh_copy.default,
        aten.dropout.default,
        aten.feature_dropout.default,
        aten.alpha_dropout.default,
    }
)
_VIEWS = frozenset({aten.view.default, aten._unsafe_view.default})
_CONVERSIONS = frozenset(
    {aten._to_copy.default, aten.to.dtype, aten.to.dtype_layout, aten.to.device, aten.to.other, aten.type_as.default}
)


@dataclass(frozen=True)
class RemoveIdentities(Pass):
    """Drop clones, dropout, conversions to the same dtype, and assertions about shapes."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: identities. Case 2: conversions that convert nothing. Case 3: assertions without a result.

        Case 4: views, which need an operand that lies in memory as a copy before them made it lie.
        """
        for node in list(module.graph.nodes):
            if node.op != "call_function":
                continue
            source = node.args[0] if node.args else None
            same = isinstance(source, fx.Node) and node.target in _CONVERSIONS and _same_dtype(node, source)
            if isinstance(source, fx.Node) and (node.target in _IDENTITIES or same):
                absorb(source, node)
                node.replace_all_uses_with(source)
                module.graph.erase_node(node)
            elif node.target in CHECKS:
                module.graph.erase_node(node)
            elif node.target in _VIEWS:
                node.target = aten.reshape.default
        return clean(module)


def _same_dtype(node: fx.Node, source: fx.Node) -> bool:
    return bool(node.meta["val"].dtype == source.meta["val"].dtype)
