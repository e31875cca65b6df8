"""What is the same for every sample, whatever the input, becomes a constant of one sample, spread over the batch.

%z = zeros_like(%x); %s = slice(%z, 1, 0, 2)   =>   %s = expand(get_attr _folded, [batch, 2, 8, 8])

Several rows for each sample, behind each other on the first axis as heads of attention are, are such a constant, too.
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
    """What each sample has of a value, the same for all: its rows on the first axis; None where they differ or are
    not known."""
    value, free = node.meta.get("val"), batch.meta["val"].shape[0]
    if node.op != "call_function" or not isinstance(value, Tensor) or node.is_impure() or not is_pure(node):
        return None
    if not value.ndim or any(isinstance(n, torch.SymInt) for n in value.shape[1:]):
        return None
    each = _size(value.shape[0], free, 1)
    if not each or _size(value.shape[0], free, 2) != 2 * each or not _is_size(value.shape[0], free):
        return None
    if not all(n.op == "get_attr" or n in rows or _is_size(n.meta.get("val"), free) for n in read_by(node)):
        return None
    first, second = (_computed(module, node, samples, free, rows) for samples in _BATCHES)
    if first is None or second is None or len(first) != _BATCHES[0] * each or len(second) != _BATCHES[1] * each:
        return None
    row = first[:each]
    found = second.reshape(_BATCHES[1], *row.shape)
    return row.clone() if bool(((found == row) | (found != found)).all()) else None


def _is_size(value: object, free: torch.SymInt) -> bool:
    """Whether a number is the size of the batch, or follows from it alone."""
    if not isinstance(value, torch.SymInt):
        return False
    return bool(value.node.expr.free_symbols == free.node.expr.free_symbols)


def _size(value: int | torch.SymInt, free: torch.SymInt, samples: int) -> int:
    """A size where the batch has so many samples."""
    if not isinstance(value, torch.SymInt):
        return value
    return int(value.node.expr.subs({free.node.expr: samples})) if _is_size(value, free) else 0


def _computed(
    module: fx.GraphModule, node: fx.Node, samples: int, free: torch.SymInt, rows: dict[fx.Node, Tensor]
) -> Tensor | None:
    def given(operand: fx.Node) -> Tensor | int:
        if operand.op == "get_attr":
            return constant_value(module, operand)
        if operand in rows:
            row = rows[operand]
            return row.repeat(samples, *[1] * (row.ndim - 1))
        value = operand.meta["val"]
        if not isinstance(value, Tensor):
            return _size(value, free, samples)
        return torch.zeros([_size(n, free, samples) for n in value.shape], dtype=value.dtype)

    try:
        with torch.no_grad():
            found = value_of(node, given)
    except (RuntimeError, IndexError, ValueError):  # of another batch than that, say
        return None
    return found if isinstance(found, Tensor) else None


def _is_spread(node: fx.Node) -> bool:
    source = node.args[0]
    if node.target is aten.reshape.default and isinstance(source, fx.Node) and source.op == "call_function":
        return _is_spread(source)
    return node.target is aten.expand.default and isinstance(source, fx.Node) and source.op == "get_attr"
