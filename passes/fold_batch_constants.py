"""What is the same for every sample, whatever the input, becomes a constant of one sample, spread over the batch.

%z = zeros_like(%x); %s = slice(%z, 1, 0, 2)   =>   %s = expand(get_attr _folded, [batch, 2, 8, 8])
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxquant.graph import clean, constant_value, replace
from fxquant.moves import free_batch, spread
from fxquant.passes.fold_constants import is_pure, read_by, value_of
from fxquant.passmanager import Pass

aten = torch.ops.aten

# Batches on which a value is computed: it must have the same samples in both.
_BATCHES = (2, 3)


@dataclass(frozen=True)
class FoldBatchConstants(Pass):
    """What is the same for every sample becomes a constant of one sample, spread over the batch."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Only values that leave the constant region are spread."""
        batch = free_batch(module.graph)
        if batch is None:
            return module
        rows: dict[fx.Node, Tensor] = {}
        for node in module.graph.nodes:
            row = _row(module, node, batch, rows)
            if row is not None:
                rows[node] = row
        for node, row in rows.items():
            if not _is_spread(node) and any(user not in rows for user in node.users):
                with module.graph.inserting_before(node):
                    replace(node, spread(module, row, node))
        return clean(module)


def _row(module: fx.GraphModule, node: fx.Node, batch: fx.Node, rows: dict[fx.Node, Tensor]) -> Tensor | None:
    """The one sample that all samples of a value are, None where they differ or are not known."""
    value, free = node.meta.get("val"), batch.meta["val"].shape[0]
    if node.op != "call_function" or not isinstance(value, Tensor) or node.is_impure() or not is_pure(node):
        return None
    if not value.ndim or str(value.shape[0]) != str(free) or any(isinstance(n, torch.SymInt) for n in value.shape[1:]):
        return None
    if not all(n.op == "get_attr" or n in rows or _is_size(n, str(free)) for n in read_by(node)):
        return None
    first, second = (_computed(module, node, samples, str(free), rows) for samples in _BATCHES)
    if first is None or second is None or second.shape[0] != _BATCHES[1]:
        return None
    wanted = first[:1].expand_as(second)
    return first[:1].clone() if bool(((second == wanted) | (second != second)).all()) else None


def _is_size(node: fx.Node, free: str) -> bool:
    """Whether a value is the size of the batch."""
    value = node.meta.get("val")
    return isinstance(value, torch.SymInt) and str(value) == free


def _computed(
    module: fx.GraphModule, node: fx.Node, samples: int, free: str, rows: dict[fx.Node, Tensor]
) -> Tensor | None:
    def given(operand: fx.Node) -> Tensor | int:
        if operand.op == "get_attr":
            return constant_value(module, operand)
        if operand in rows:
            return rows[operand].expand(samples, *rows[operand].shape[1:])
        value = operand.meta["val"]
        if not isinstance(value, Tensor):
            return samples
        return torch.zeros([samples if isinstance(n, torch.SymInt) else int(n) for n in value.shape], dtype=value.dtype)

    try:
        with torch.no_grad():
            found = value_of(node, given)
    except (RuntimeError, IndexError, ValueError):  # of another batch than that, say
        return None
    return found if isinstance(found, Tensor) and found.shape[0] == samples else None


def _is_spread(node: fx.Node) -> bool:
    source = node.args[0]
    return node.target is aten.expand.default and isinstance(source, fx.Node) and source.op == "get_attr"
