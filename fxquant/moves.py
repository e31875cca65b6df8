"""Moves of values as the few calls that have integer code: slices, copies side by side, and picks by position.

take(x, 1, [2, 3, 0, 1])   =>   cat([slice(x, 1, 2, 4), slice(x, 1, 0, 2)], 1)
take(x, 2, [0, 0, 1, 4])   =>   index_select(x, 2, positions)
"""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.errors import StageError
from fxquant.graph import add_constant, call, inherit, placeholders, shape
from fxquant.source import describe

aten = torch.ops.aten

# So many runs of neighbours are copied run by run; more are picked one by one.
MOST_RUNS = 3


def take(graph: fx.Graph, x: fx.Node, axis: int, positions: Sequence[int], like: fx.Node) -> fx.Node:
    """out[..., i, ...] = x[..., positions[i], ...] at the insertion point, by the cheapest call that does it."""
    length, count = shape(x)[axis], len(positions)
    first, last = positions[0], positions[-1]
    steps = {b - a for a, b in pairwise(positions)} or {1}
    if list(positions) == list(range(int(length))):
        return x
    if len(steps) == 1 and min(steps) > 0:
        return call(graph, aten.slice.Tensor, x, axis, first, last + 1, *(steps - {1}), like=like)
    if steps == {0}:
        one = call(graph, aten.slice.Tensor, x, axis, first, first + 1, like=like) if length != 1 else x
        sizes = [count if place == axis else -1 for place in range(len(shape(x)))]
        return call(graph, aten.expand.default, one, sizes, like=like)
    if steps == {-1}:
        forward = take(graph, x, axis, range(last, first + 1), like)
        return call(graph, aten.flip.default, forward, [axis], like=like)
    runs = _runs(positions)
    if len(runs) <= MOST_RUNS:
        parts = [take(graph, x, axis, range(*run), like) for run in runs]
        return call(graph, aten.cat.default, parts, axis, like=like)
    index = add_constant(_owner(graph), torch.tensor(positions, dtype=torch.int64), f"{like.name}_positions")
    return call(graph, aten.index_select.default, x, axis, index, like=like)


def _runs(positions: Sequence[int]) -> list[tuple[int, int]]:
    """The positions as runs of neighbours: first and end of each."""
    found: list[tuple[int, int]] = []
    for place in positions:
        if found and found[-1][1] == place:
            found[-1] = found[-1][0], place + 1
        else:
            found.append((place, place + 1))
    return found


def reshaped(graph: fx.Graph, x: fx.Node, sizes: Sequence[Any], like: fx.Node) -> fx.Node | None:
    """`x` in another shape, one free size becoming -1; None where there are several."""
    fixed = [-1 if isinstance(n, torch.SymInt) else int(n) for n in sizes]
    if str(tuple(sizes)) == str(shape(x)):
        return x
    return call(graph, aten.reshape.default, x, fixed, like=like) if fixed.count(-1) <= 1 else None


def permuted(graph: fx.Graph, x: fx.Node, order: Sequence[int], like: fx.Node) -> fx.Node:
    """`x` with its axes in another order."""
    return x if list(order) == sorted(order) else call(graph, aten.permute.default, x, list(order), like=like)


def spread(module: fx.GraphModule, row: Tensor, like: fx.Node) -> fx.Node:
    """What each sample has of a constant, its rows on the first axis, for each sample of the free batch; the size of
    that is asked of an input, which stays anyway.

    Raises StageError where the batch is not free.
    """
    batch = free_batch(module.graph)
    if batch is None:
        raise StageError(f"{describe(like)} cannot be spread over the batch: no input has a free one")
    several = len(row) > 1
    constant = add_constant(module, (row.unsqueeze(0) if several else row).contiguous(), f"{like.name}_row")
    inherit(constant, like)
    with module.graph.inserting_after(batch):
        size = call(module.graph, aten.sym_size.int, batch, 0, like=like)
    if not several:
        return call(module.graph, aten.expand.default, constant, [size, *row.shape[1:]], like=like)
    copies = call(module.graph, aten.expand.default, constant, [size, *row.shape], like=like)
    return call(module.graph, aten.reshape.default, copies, [-1, *row.shape[1:]], like=like)


def free_batch(graph: fx.Graph) -> fx.Node | None:
    """An input with a free batch."""
    return next((node for node in placeholders(graph) if has_free_batch(node)), None)


def has_free_batch(node: fx.Node) -> bool:
    """Whether the first axis is free."""
    return len(shape(node)) > 0 and isinstance(shape(node)[0], torch.SymInt)


def _owner(graph: fx.Graph) -> fx.GraphModule:
    found = graph.owning_module
    if not isinstance(found, fx.GraphModule):
        raise StageError("a constant can only be added to the graph of a GraphModule")
    return found
