"""Indices into tables, held to the rows that are there: what code does that has no way to report an error.

%e = embedding(%table, %index)   =>   %i = clamp(%index, 0, rows - 1); %e = embedding(%table, %i)

PyTorch raises IndexError for an index that a table lacks, and code that a runtime calls an InputError.
"""

from __future__ import annotations

import torch
from torch import fx

from fxquant.arguments import node_arg
from fxquant.graph import call, calls, shape

aten = torch.ops.aten


def clamp_indices(graph: fx.Graph) -> None:
    """Clamp the indices of every look-up, in place."""
    for node in calls(graph, aten.embedding.default):
        with graph.inserting_before(node):
            bounds = index_bounds(node)
            node.update_arg(1, call(graph, aten.clamp.default, node_arg(node, 1), *bounds, like=node))


def index_bounds(embedding: fx.Node) -> tuple[int, int]:
    """The first and the last row of the table of an `embedding`."""
    return 0, int(shape(node_arg(embedding, 0))[0]) - 1
