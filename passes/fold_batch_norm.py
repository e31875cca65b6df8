"""Fold batch normalization into the convolution or linear layer before it; a lone one becomes a depthwise 1x1.

    %c = conv2d(%x, %w, %b); %n = batch_norm(%c, gamma, beta, mean, var)   =>   %c = conv2d(%x, %w', %b')
    %n = batch_norm(%x, ...)                                               =>   %n = conv2d(%x, %scale, %shift, groups=C)

With g = gamma / sqrt(var + eps):  w' = w * g,  b' = (b - mean) * g + beta.
"""

from __future__ import annotations

import operator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.graph import add_constant, call, calls, clean, constant_value
from fxquant.ops.table import TABLE
from fxquant.passmanager import Pass

aten = torch.ops.aten

_NORMS = (aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default)
_PRODUCTS = (aten.conv1d.default, aten.conv2d.default, aten.conv_transpose2d.input, aten.conv_transpose1d.default,
             aten.linear.default)  # fmt: skip


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch normalization into the layer before it; a lone one becomes a depthwise 1x1 convolution."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: after a layer that nothing else reads. Case 2: alone, on 2, 3 or 4 axes."""
        for node in calls(module.graph, *_NORMS):
            result = _result(node)
            if result is None:
                continue
            source: Any = node.args[0]
            scale, shift = _affine(module, node)
            with module.graph.inserting_before(node):
                if _is_foldable(source):
                    replacement = _folded(module, source, scale, shift, node)
                else:
                    replacement = _depthwise(module, source, scale, shift, node)
            if replacement is not None:
                result.replace_all_uses_with(replacement)
        return clean(module)


def _result(node: fx.Node) -> fx.Node | None:
    if node.target is aten.batch_norm.default:
        return None if node.args[5] else node
    items = [user for user in node.users if user.target is operator.getitem]
    return items[0] if len(items) == len(node.users) == 1 and items[0].args[1] == 0 else None


def _affine(module: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor]:
    gamma, beta, mean, var = (
        constant_value(module, a).double() if isinstance(a, fx.Node) else None for a in node.args[1:5]
    )
    assert mean is not None and var is not None
    eps = float(node.args[-1] if node.target is _NORMS[0] else node.args[7])  # type: ignore[arg-type]
    scale = 1.0 / torch.sqrt(var + eps)
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale
    return scale, shift if beta is None else shift + beta


def _is_foldable(layer: Any) -> bool:
    if layer.target not in _PRODUCTS or len(layer.users) != 1:
        return False
    # Over signals, the channels of the norm are not the features of a linear layer.
    if layer.target is aten.linear.default and layer.meta["val"].ndim != 2:
        return False
    return all(not isinstance(a, fx.Node) or a.op == "get_attr" for a in layer.args[1:3])


def _folded(module: fx.GraphModule, layer: fx.Node, scale: Tensor, shift: Tensor, norm: fx.Node) -> fx.Node:
    weight = constant_value(module, layer.args[1])  # type: ignore[arg-type]
    old_bias = layer.args[2] if len(layer.args) > 2 else None
    bias = constant_value(module, old_bias).double() if isinstance(old_bias, fx.Node) else torch.zeros_like(scale)
    axis = TABLE[layer.target].weight_axis
    shape = [1] * weight.ndim
    shape[axis] = -1
    factor = scale
    if axis == 1 and layer.target is not aten.linear.default:
        # A grouped transposed convolution keeps the channels of each group on axis 1.
        groups = int(layer.args[6]) if len(layer.args) > 6 else 1  # type: ignore[call-overload]
        if groups > 1:
            return _grouped_transpose(module, layer, scale, shift, norm, groups)
    new_weight = add_constant(module, (weight.double() * factor.reshape(shape)).float(), f"{layer.name}_weight")
    new_bias = add_constant(module, (bias * scale + shift).float(), f"{layer.name}_bias")
    return call(module.graph, layer.target, layer.args[0], new_weight, new_bias, *layer.args[3:], like=layer)


def _grouped_transpose(
    module: fx.GraphModule, layer: fx.Node, scale: Tensor, shift: Tensor, norm: fx.Node, groups: int
) -> fx.Node:
    weight = constant_value(module, layer.args[1]).double()  # type: ignore[arg-type]
    old_bias = layer.args[2] if len(layer.args) > 2 else None
    bias = constant_value(module, old_bias).double() if isinstance(old_bias, fx.Node) else torch.zeros_like(scale)
    per_group = scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))
    scaled = (weight.unflatten(0, (groups, -1)) * per_group).flatten(0, 1)
    new_weight = add_constant(module, scaled.float(), f"{layer.name}_weight")
    new_bias = add_constant(module, (bias * scale + shift).float(), f"{layer.name}_bias")
    return call(module.graph, layer.target, layer.args[0], new_weight, new_bias, *layer.args[3:], like=layer)


def _depthwise(module: fx.GraphModule, x: fx.Node, scale: Tensor, shift: Tensor, norm: fx.Node) -> fx.Node | None:
    ndim = x.meta["val"].ndim
    if ndim not in (2, 3, 4):
        return None
    graph, channels = module.graph, len(scale)
    spatial = max(ndim, 3) - 2
    weight = add_constant(module, scale.float().reshape(channels, 1, *[1] * spatial), f"{norm.name}_scale")
    bias = add_constant(module, shift.float(), f"{norm.name}_shift")
    target = aten.conv1d.default if spatial == 1 else aten.conv2d.default
    source = call(graph, aten.unsqueeze.default, x, -1, like=norm) if ndim == 2 else x
    settings = ([1] * spatial, [0] * spatial, [1] * spatial, channels)
    out = call(graph, target, source, weight, bias, *settings, like=norm)
    return call(graph, aten.squeeze.dim, out, -1, like=norm) if ndim == 2 else out
