"""Compute at compile time what depends on constants only.

%t = aten.transpose(%weight, 0, 1)              =>   %t = get_attr _folded
%m = meshgrid([%a, %b]); %r = getitem(%m, 0)    =>   %r = get_attr _folded
%z = zeros_like(%x)                             =>   %z = get_attr _folded, where the shape of %x is known
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.graph import add_constant, clean, compute, constant_value, inherit
from fxquant.passmanager import Pass
from fxquant.zeros import Zeros, note_mask

aten = torch.ops.aten

# What was never written, which zeros are as well.
_EMPTY = (aten.empty_like.default, aten.new_empty.default, aten.empty.memory_format)
# Of their first operand only the type matters.
_NEW = (aten.new_empty.default, aten.new_zeros.default, aten.new_ones.default, aten.new_full.default)
# Of their first operand only shape and type matter.
FILLS = (
    *_NEW,
    aten.empty_like.default,
    aten.zeros_like.default,
    aten.ones_like.default,
    aten.full_like.default,
    aten.fill.Scalar,
    aten.fill.Tensor,
    aten.zero.default,
)


@dataclass(frozen=True)
class FoldConstants(Pass):
    """Compute at compile time what depends on constants only; random numbers are left alone."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Only nodes whose value leaves the constant region become constants; where one is masked, it is noted."""
        values: dict[fx.Node, Any] = {}
        zeros = Zeros(module)
        for node in module.graph.nodes:
            if node.op == "get_attr":
                values[node] = constant_value(module, node)
                zeros.start(node, values[node])
            elif _foldable(node, values):
                with torch.no_grad():
                    values[node] = value_of(node, lambda n: values[n] if n in values else _blank(n))
                    zeros.follow(node, values)
        for node in list(module.graph.nodes):
            folded = values.get(node)
            if node.op != "call_function" or not isinstance(folded, Tensor):
                continue
            if all(user in values for user in node.users):
                continue
            with module.graph.inserting_before(node):
                constant = add_constant(module, folded.contiguous(), f"{node.name}_folded")
            inherit(constant, node)
            if (mask := zeros.mask(node)) is not None:
                for user in set(node.users).difference(values):
                    note_mask(module, user, mask)
            node.replace_all_uses_with(constant)
        return clean(module)


def _foldable(node: fx.Node, values: dict[fx.Node, Any]) -> bool:
    if node.op != "call_function" or node.is_impure() or not is_pure(node):
        return False
    # A constant over the batch would bake the batch in.
    found = node.meta["val"] if isinstance(node.meta.get("val"), (list, tuple)) else [node.meta.get("val")]
    if not all(isinstance(part, Tensor) and has_fixed_shape(part) for part in found):
        return False
    fills = set() if node.target in _NEW else set(node.all_input_nodes).difference(read_by(node), values)
    return all(source in values for source in read_by(node)) and all(has_fixed_shape(n.meta["val"]) for n in fills)


def value_of(node: fx.Node, value: Callable[[fx.Node], Any]) -> Any:
    """What a call gives, `value` giving the values of its operands; zeros where that is not defined."""
    found = compute(node, value)
    return torch.zeros_like(found) if node.target in _EMPTY else found


def read_by(node: fx.Node) -> list[fx.Node]:
    """The operands whose elements a call reads, and not their shape alone."""
    sources: list[fx.Node] = node.all_input_nodes
    if node.target not in FILLS:
        return sources
    return [n for n in sources if n is not node.args[0] or n in node.args[1:]]


def is_pure(node: fx.Node) -> bool:
    """Whether a call gives the same each time."""
    return torch.Tag.nondeterministic_seeded not in getattr(node.target, "tags", ())


def has_fixed_shape(value: Tensor) -> bool:
    """Whether no size is free."""
    return not any(isinstance(size, torch.SymInt) for size in value.shape)


def _blank(operand: fx.Node) -> Tensor:
    """Zeros of its shape; a free size, which nobody asks for, is 1."""
    value = operand.meta["val"]
    return torch.zeros([1 if isinstance(n, torch.SymInt) else int(n) for n in value.shape], dtype=value.dtype)
