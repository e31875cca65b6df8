"""Rewrite matrix products so that constants are weights, and vectors matrices.

matmul(x, %w)                =>   linear(x, transpose(%w)): a scale per output feature
bmm(x, %w), %w : [1, 8, 5]   =>   linear(x, transpose(select(%w)))
matmul(%w, x)                =>   transpose(linear(transpose(x), %w))
matmul(x, v), v a vector     =>   squeeze(matmul(x, unsqueeze(v)))
bilinear(x, y, %w, %b)       =>   squeeze(matmul(reshape(linear(x, %w')), unsqueeze(y))) + %b
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import fx

from fxquant.arguments import arguments, node_arg
from fxquant.graph import call, calls, clean, is_constant, is_float, replace, shape
from fxquant.moves import reshaped
from fxquant.passmanager import Pass

aten = torch.ops.aten


@dataclass(frozen=True)
class RewriteProducts(Pass):
    """Rewrite matrix products so that constants are weights, and vectors matrices."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """A constant on the right or on the left; a vector on the right or on the left."""
        for node in calls(module.graph, aten.matmul.default, aten.bmm.default, aten.mv.default, aten.dot.default):
            with module.graph.inserting_before(node):
                replacement = _rewritten(module.graph, node) if is_float(node) else None
            if replacement is not None:
                replace(node, replacement)
        for node in calls(module.graph, aten.bilinear.default):
            with module.graph.inserting_before(node):
                replacement = _bilinear(module.graph, node)
            if replacement is not None:
                replace(node, replacement)
        return clean(module)


def _bilinear(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """The weight (outputs, of x, of y) with x is a matrix for each sample, and that times y the result."""
    x, y, weight, bias = arguments(node)
    outputs, of_x, of_y = (int(n) for n in shape(weight))
    turned = call(graph, aten.permute.default, weight, [0, 2, 1], like=node)
    flat = call(graph, aten.reshape.default, turned, [outputs * of_y, of_x], like=node)
    rows = call(graph, aten.linear.default, x, flat, like=node)
    matrices = reshaped(graph, rows, [*shape(x)[:-1], outputs, of_y], node)
    if matrices is None:
        return None
    product = call(
        graph, aten.matmul.default, matrices, call(graph, aten.unsqueeze.default, y, -1, like=node), like=node
    )
    found = call(graph, aten.squeeze.dim, product, -1, like=node)
    return found if bias is None else call(graph, aten.add.Tensor, found, bias, like=node)


def _rewritten(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    a, b = node_arg(node, 0), node_arg(node, 1)
    if len(shape(a)) == 1:
        row = _product(graph, call(graph, aten.unsqueeze.default, a, 0, like=node), b, node)
        return call(graph, aten.squeeze.dim, row, -1 if len(shape(b)) == 1 else -2, like=node)
    if len(shape(b)) == 1 or node.target is aten.mv.default:
        return _product(graph, a, b, node)
    found = _product(graph, a, b, node)
    if found.target is aten.matmul.default and found.args == node.args:
        graph.erase_node(found)
        return None
    return found


def _product(graph: fx.Graph, a: fx.Node, b: fx.Node, node: fx.Node) -> fx.Node:
    """a @ b, where `a` has rows."""
    if len(shape(b)) == 1:
        column = _product(graph, a, call(graph, aten.unsqueeze.default, b, -1, like=node), node)
        return call(graph, aten.squeeze.dim, column, -1, like=node)
    right, left = _matrix(graph, b, len(shape(a)), node), _matrix(graph, a, len(shape(b)), node)
    if right is not None and not is_constant(a):
        weight = call(graph, aten.transpose.int, right, 0, 1, like=node)
        return call(graph, aten.linear.default, a, weight, like=node)
    if left is not None and not is_constant(b):
        turned = call(graph, aten.transpose.int, b, -2, -1, like=node)
        return call(
            graph, aten.transpose.int, call(graph, aten.linear.default, turned, left, like=node), -2, -1, like=node
        )
    return call(graph, aten.matmul.default, a, b, like=node)


def _matrix(graph: fx.Graph, x: fx.Node, most: int, node: fx.Node) -> fx.Node | None:
    """A constant that is one matrix for the whole batch, as a matrix; `most` axes that the other operand has."""
    if not is_constant(x) or len(shape(x)) > most or any(n != 1 for n in shape(x)[:-2]):
        return None
    return call(graph, aten.reshape.default, x, list(shape(x)[-2:]), like=node) if len(shape(x)) > 2 else x
