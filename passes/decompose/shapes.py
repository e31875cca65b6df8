"""Sizes of views, without arithmetic on the batch.

view(x, [batch, 8]), flatten(x, 1)   =>   reshape(x, [-1, 8])
sym_size(y, 0)                       =>   sym_size(input, 0)
repeat(x, [batch, 1, 2])             =>   reshape(expand(unsqueeze(repeat(x, [1, 1, 2]), 0), [batch, ...]), [-1, ...])
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant.arguments import arguments, node_arg
from fxquant.graph import call, shape

aten = torch.ops.aten


def view(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """A size computed from the batch becomes -1, so that no shape arithmetic is left in the graph."""
    source, sizes = arguments(node)
    free = [i for i, size in enumerate(sizes) if isinstance(size, fx.Node)]
    if len(free) > 1:
        return None
    # The others as they came out: a -1 among them would be one too many.
    result = node.meta["val"].shape if free else sizes
    fixed = [-1 if i in free else int(size) for i, size in enumerate(result)]
    return call(graph, aten.reshape.default, source, fixed, like=node)


def flatten(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """The shape of the result is known: one reshape."""
    return reshaped(graph, node_arg(node, "self"), list(shape(node)), node)


def reshaped(graph: fx.Graph, x: fx.Node, sizes: list[Any], node: fx.Node) -> fx.Node | None:
    """`x` in another shape, one free size becoming -1; None where there are several."""
    fixed = [-1 if isinstance(n, torch.SymInt) else int(n) for n in sizes]
    return call(graph, aten.reshape.default, x, fixed, like=node) if fixed.count(-1) <= 1 else None


def repeated(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """As often as there are samples: one copy for each sample, the copies behind each other on the first axis."""
    source, (times, *others) = node_arg(node, "self"), arguments(node)[1]
    sizes = shape(source)
    if not isinstance(times, fx.Node) or isinstance(sizes[0] if sizes else 1, torch.SymInt):
        return None
    if any(isinstance(factor, fx.Node) or factor != 1 for factor in others):
        source = call(graph, aten.repeat.default, source, [1, *others], like=node)
    elif len(others) >= len(sizes):
        source = call(graph, aten.reshape.default, source, [1] * (len(others) + 1 - len(sizes)) + [*sizes], like=node)
    one = [int(size) for size in shape(source)]
    apart = call(graph, aten.unsqueeze.default, source, 0, like=node)
    copies = call(graph, aten.expand.default, apart, [times, *one], like=node)
    return call(graph, aten.reshape.default, copies, [-1, *one[1:]], like=node)


def batch_size(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """The batch is asked of an input, so that no later value is kept alive for its size."""
    for source in graph.find_nodes(op="placeholder"):
        sizes = source.meta["val"].shape
        if source is node.args[0] or not len(sizes) or str(sizes[0]) != str(node.meta["val"]):
            continue
        with graph.inserting_after(source):
            return call(graph, aten.sym_size.int, source, 0, like=node)
    return None
