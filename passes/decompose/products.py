"""Products of matrices.

mm(x, w)                           =>   linear(x, w^T) where `w` is a weight, else matmul(x, w)
addmm(b, x, w), baddbmm(b, x, y)   =>   linear(x, w^T, b), and sums of their own where factors are not 1
"""

from __future__ import annotations

from typing import Any

import torch
from torch import fx

from fxquant.arguments import arguments
from fxquant.graph import call, is_constant, shape

aten = torch.ops.aten


def mm(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """x @ w: a linear layer where `w` is a weight."""
    x, w = arguments(node)
    return _product(graph, x, w, None, node)


def addmm(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """bias * beta + x @ w * alpha: a linear layer with a bias where it is one."""
    bias, x, w, beta, alpha = arguments(node)
    if alpha == beta == 1 and is_constant(bias) and is_constant(w) and len(shape(bias)) == 1:
        return _product(graph, x, w, bias, node)
    return _scaled_sum(graph, _product(graph, x, w, None, node), bias, beta, alpha, node)


def baddbmm(graph: fx.Graph, node: fx.Node) -> fx.Node:
    """added * beta + x @ w * alpha, matrix by matrix."""
    added, x, w, beta, alpha = arguments(node)
    return _scaled_sum(graph, call(graph, aten.bmm.default, x, w, like=node), added, beta, alpha, node)


def _product(graph: fx.Graph, x: fx.Node, w: fx.Node, bias: fx.Node | None, node: fx.Node) -> fx.Node:
    if not is_constant(w):
        return call(graph, aten.matmul.default, x, w, like=node)
    return call(graph, aten.linear.default, x, call(graph, aten.transpose.int, w, 0, 1, like=node), bias, like=node)


def _scaled_sum(graph: fx.Graph, product: fx.Node, added: fx.Node, beta: Any, alpha: Any, node: fx.Node) -> fx.Node:
    """product * alpha + added * beta; a `beta` of 0 leaves `added` out, whatever it holds."""
    if alpha != 1:
        product = call(graph, aten.mul.Tensor, product, alpha, like=node)
    return call(graph, aten.add.Tensor, product, added, alpha=beta, like=node) if beta else product
