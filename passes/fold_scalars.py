"""Take a constant of one element for the number that it is.

%p = get_attr power; %y = aten.pow(%x, %p)       =>   %y = aten.pow(%x, 3.0)
%y = aten.maximum(%x, %c); prelu(%x, %slope)     =>   %y = aten.clamp_min(%x, 0.5); leaky_relu(%x, 0.25)
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxquant.arguments import callee, float_arg
from fxquant.graph import call, calls, clean, constant_value, is_float, replace, shape
from fxquant.passmanager import Pass

aten = torch.ops.aten

# By overload: what takes a number as its second operand, and as its first one; None where it takes it as well.
_SECOND: dict[Any, Any] = {
    aten.add.Tensor: None,
    aten.sub.Tensor: None,
    aten.mul.Tensor: None,
    aten.div.Tensor: None,
    aten.pow.Tensor_Tensor: aten.pow.Tensor_Scalar,
    aten.maximum.default: aten.clamp_min.default,
    aten.minimum.default: aten.clamp_max.default,
    aten.prelu.default: aten.leaky_relu.default,
    aten.gt.Tensor: aten.gt.Scalar,
    aten.ge.Tensor: aten.ge.Scalar,
    aten.lt.Tensor: aten.lt.Scalar,
    aten.le.Tensor: aten.le.Scalar,
    aten.eq.Tensor: aten.eq.Scalar,
    aten.ne.Tensor: aten.ne.Scalar,
}
_FIRST: dict[Any, Callable[[fx.Graph, fx.Node, float], fx.Node]] = {
    aten.add.Tensor: lambda g, n, c: _scaled_and(g, n, c, 1.0),
    aten.sub.Tensor: lambda g, n, c: _scaled_and(g, n, c, -1.0),
    aten.mul.Tensor: lambda g, n, c: call(g, aten.mul.Tensor, n.args[1], c, like=n),
    aten.div.Tensor: lambda g, n, c: _over(g, n, c),
    aten.pow.Tensor_Tensor: lambda g, n, c: call(g, aten.pow.Scalar, c, n.args[1], like=n),
    aten.maximum.default: lambda g, n, c: call(g, aten.clamp_min.default, n.args[1], c, like=n),
    aten.minimum.default: lambda g, n, c: call(g, aten.clamp_max.default, n.args[1], c, like=n),
}
_WHERE = aten.where.self


@dataclass(frozen=True)
class FoldScalars(Pass):
    """Take a constant of one element for the number that it is."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Where the constant does not give the result its shape."""
        for node in calls(module.graph, *_SECOND, _WHERE):
            with module.graph.inserting_before(node):
                found = _folded(module, node)
            if found is not None:
                replace(node, found)
        return clean(module)


def _folded(module: fx.GraphModule, node: fx.Node) -> fx.Node | None:
    place = 1 if node.target is _WHERE else 0
    a, b = node.args[place : place + 2]
    if node.meta["val"].dtype not in (torch.float32, torch.bool):
        return None
    if (number := _number(module, node, b, a)) is not None:
        return _second(module.graph, node, number)
    number = _number(module, node, a, b)
    if number is None:
        return None
    if node.target is _WHERE:
        return call(module.graph, aten.where.ScalarSelf, node.args[0], number, b, like=node)
    return _FIRST[node.target](module.graph, node, number) if node.target in _FIRST else None


def _number(module: fx.GraphModule, node: fx.Node, constant: Any, other: Any) -> float | None:
    """The number that `constant` is beside a real value that is as large as the result."""
    if not isinstance(constant, fx.Node) or constant.op != "get_attr" or constant.meta["val"].numel() != 1:
        return None
    is_value = isinstance(other, fx.Node) and is_float(other) and other.op != "get_attr"
    if not is_value or str(shape(other)) != str(shape(node)):
        return None
    return float(constant_value(module, constant).reshape(()))


def _second(graph: fx.Graph, node: fx.Node, number: float) -> fx.Node:
    if node.target is _WHERE:
        return call(graph, aten.where.ScalarOther, *node.args[:2], number, like=node)
    return call(graph, _SECOND[node.target] or callee(node), node.args[0], number, like=node, **node.kwargs)


def _scaled_and(graph: fx.Graph, node: fx.Node, number: float, sign: float) -> fx.Node:
    """number + alpha * x"""
    factor = sign * float_arg(node, "alpha")
    x = node.args[1] if factor == 1.0 else call(graph, aten.mul.Tensor, node.args[1], factor, like=node)
    return call(graph, aten.add.Tensor, x, number, like=node)


def _over(graph: fx.Graph, node: fx.Node, number: float) -> fx.Node:
    one_over = call(graph, aten.reciprocal.default, node.args[1], like=node)
    return call(graph, aten.mul.Tensor, one_over, number, like=node)
