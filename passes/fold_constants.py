"""Compute at compile time what depends on constants only.

%t = aten.transpose(%weight, 0, 1)      =>   %t = get_attr _folded
%rows = meshgrid(%arange, %arange_1)[0]   =>   %rows = get_attr _folded
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.graph import add_constant, clean, compute, constant_value, inherit
from fxquant.passmanager import Pass


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute at compile time what depends on constants only; random numbers are left alone."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Only nodes whose value leaves the constant region become constants themselves."""
        values: dict[fx.Node, Any] = {}
        for node in module.graph.nodes:
            if node.op == "get_attr":
                values[node] = constant_value(module, node)
            elif _foldable(node, values):
                with torch.no_grad():
                    values[node] = compute(node, values.__getitem__)
        for node in list(module.graph.nodes):
            folded = values.get(node)
            if node.op != "call_function" or not isinstance(folded, Tensor):
                continue
            if all(user in values for user in node.users):
                continue
            with module.graph.inserting_before(node):
                constant = add_constant(module, folded.contiguous(), f"{node.name}_folded")
            inherit(constant, node)
            node.replace_all_uses_with(constant)
        return clean(module)


def _foldable(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    value = node.meta.get("val")
    results: list[Any] = list(value) if isinstance(value, (list, tuple)) else [value]
    if node.op != "call_function" or node.is_impure() or not all(isinstance(one, Tensor) for one in results):
        return False
    if isinstance(node.target, torch._ops.OpOverload) and torch.Tag.nondeterministic_seeded in node.target.tags:
        return False
    # A constant over the batch would bake the batch in.
    if any(isinstance(size, torch.SymInt) for one in results for size in one.shape):
        return False
    return all(source in values for source in node.all_input_nodes)
