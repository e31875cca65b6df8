"""Give float operations that stay a result that does not depend on who computes it: one that is defined to the bit.

%y = aten.softmax(%x, 1)                 =>   fxq.real_softmax over the axis that a transposition makes the last one
%y = aten.layer_norm(%x, [64], %w, %b)   =>   %y = fxq.real_norm(%x, %w, %b, eps, False)
%y = aten.gelu(%x)                       =>   %y = fxq.real_curve(%x, "gelu")

They are islands as before: only who says what they give has changed (`fxquant.reals`).
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import fx

from fxquant.arguments import argument, int_arg, ints_arg, node_arg
from fxquant.graph import call, clean, is_float, replace, shape
from fxquant.passmanager import Pass
from fxquant.stage import Stage

aten, fxq = torch.ops.aten, torch.ops.fxq

_CURVES: dict[Any, str] = {
    aten.gelu.default: "gelu",
    aten.silu.default: "silu",
    aten.sigmoid.default: "sigmoid",
    aten.tanh.default: "tanh",
    aten.erf.default: "erf",
    aten.hardsigmoid.default: "hardsigmoid",
    aten.hardswish.default: "hardswish",
}
_FACTS = ("fxq.island", "fxq.plan", "fxq.origin")


@dataclass(frozen=True)
class DefineReals(Pass):
    """Give float operations that stay a result that does not depend on who computes it."""

    needs: ClassVar[Stage] = Stage.INTEGER
    gives: ClassVar[Stage] = Stage.INTEGER

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: functions of one value. Case 2: softmax. Case 3: norms of rows."""
        for node in [n for n in module.graph.nodes if n.meta.get("fxq.island") and _is_single(n)]:
            with module.graph.inserting_before(node):
                made = _defined(module.graph, node)
            if made is not None:
                for key in _FACTS:
                    made.meta |= {key: node.meta[key]} if key in node.meta else {}
                replace(node, made)
        return clean(module)


def _is_single(node: fx.Node) -> bool:
    """Whether all floats are of 32 bits, with at least one axis and without empty ones."""
    values = [n.meta["val"] for n in (node, *node.all_input_nodes) if is_float(n)]
    return is_float(node) and all(v.dtype == torch.float32 and v.ndim and 0 not in v.shape for v in values)


def _defined(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    if node.target in _CURVES:
        form = "_tanh" if node.target is aten.gelu.default and argument(node, "approximate") == "tanh" else ""
        return call(graph, fxq.real_curve.default, node_arg(node, 0), _CURVES[node.target] + form, like=node)
    return _ROWS[node.target](graph, node) if node.target in _ROWS else None


def _softmax(graph: fx.Graph, node: fx.Node) -> fx.Node:
    x, last = node_arg(node, 0), len(shape(node)) - 1
    axis = int_arg(node, "dim") % (last + 1)
    if axis == last:
        return call(graph, fxq.real_softmax.default, x, like=node)
    turned = _island(call(graph, aten.transpose.int, x, axis, last, like=node), node)
    found = _island(call(graph, fxq.real_softmax.default, turned, like=node), node)
    return call(graph, aten.transpose.int, found, axis, last, like=node)


def _island(part: fx.Node, node: fx.Node) -> fx.Node:
    part.meta |= {key: node.meta[key] for key in _FACTS if key in node.meta}
    return part


def _norm(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """None over several axes, and where gamma or beta are computed."""
    about_zero = node.target is aten.rms_norm.default
    affine = [argument(node, "weight"), None if about_zero else argument(node, "bias")]
    if len(ints_arg(node, "normalized_shape")) != 1 or any(a is not None and a.op != "get_attr" for a in affine):
        return None
    epsilon = argument(node, "eps")
    epsilon = torch.finfo(torch.float32).eps if epsilon is None else float(epsilon)
    return call(graph, fxq.real_norm.default, node_arg(node, 0), *affine, epsilon, about_zero, like=node)


_ROWS: dict[Any, Callable[[fx.Graph, fx.Node], fx.Node | None]] = {
    aten.softmax.int: _softmax,
    aten._softmax.default: _softmax,
    aten.layer_norm.default: _norm,
    aten.rms_norm.default: _norm,
}
