"""Fold batch normalization into the convolution or linear layer before it; a lone one becomes a depthwise 1x1.

    %c = conv2d(%x, %w, %b); %n = batch_norm(%c, gamma, beta, mean, var)  =>  %c = conv2d(%x, %w', %b')
    %n = batch_norm(%x, ...)                                              =>  %n = conv2d(%x, %scale, %shift, groups=C)

With g = gamma / sqrt(var + eps):  w' = w * g,  b' = (b - mean) * g + beta.
"""

from __future__ import annotations

import operator
from collections.abc import Iterable
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxquant.arguments import argument, arguments, float_arg, int_arg, node_arg
from fxquant.graph import absorb, add_constant, call, calls, clean, constant_value, replace
from fxquant.kept import NORM, Kept, KeptNorm, keep
from fxquant.passmanager import Pass

aten = torch.ops.aten

_NORMS = (aten._native_batch_norm_legit_no_training.default, aten.batch_norm.default)
_TRANSPOSED = (aten.conv_transpose1d.default, aten.conv_transpose2d.input, aten.conv_transpose3d.input)
_CONVOLUTIONS = (aten.conv1d.default, aten.conv2d.default, aten.conv3d.default)
_PRODUCTS = (*_CONVOLUTIONS, *_TRANSPOSED, aten.linear.default)


@dataclass(frozen=True)
class FoldBatchNorm(Pass):
    """Fold batch normalization into the layer before it; a lone one becomes a depthwise 1x1 convolution."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: after a layer that nothing else reads. Case 2: alone, on 2 to 5 axes."""
        for node in calls(module.graph, *_NORMS):
            result = _result(node)
            if result is None:
                continue
            source, (scale, shift) = node_arg(node, 0), _affine(module, node)
            if _is_foldable(source):
                before = keep(module, source.args[1]), keep(module, argument(source, "bias"))
                _fold(module, source, scale, shift)
                _note(module, source, node, *before)
                _drop(node, result, source)
                continue
            with module.graph.inserting_before(node):
                alone = _depthwise(module, source, scale, shift, node)
            if alone is not None:
                _note_alone(module, node, alone)
                _drop(node, result, alone)
        return clean(module)


def _result(node: fx.Node) -> fx.Node | None:
    """The normalized tensor, or None for a norm over the batch, one with computed parameters, or a use of its rest."""
    if not _are_constants(arguments(node)[1:5]):
        return None
    if node.target is aten.batch_norm.default:
        return None if argument(node, "training") else node
    items = [user for user in node.users if user.target is operator.getitem]
    return items[0] if len(items) == len(node.users) == 1 and items[0].args[1] == 0 else None


def _note(module: fx.GraphModule, layer: fx.Node, norm: fx.Node, weight: Kept | None, bias: Kept | None) -> None:
    """Keep what the weight was folded from: training may go on with the norm as it was."""
    gamma, beta, mean, var = (keep(module, a) for a in arguments(norm)[1:5])
    if weight is None or mean is None or var is None:
        return
    eps, momentum = float_arg(norm, "eps"), float_arg(norm, "momentum")
    groups = int_arg(layer, "groups") if layer.target in _TRANSPOSED else 0
    into = str(node_arg(layer, 1).target)
    layer.meta[NORM] = KeptNorm(into, weight, bias, gamma, beta, mean, var, eps, momentum, groups)


def _note_alone(module: fx.GraphModule, norm: fx.Node, alone: fx.Node) -> None:
    """The same of a norm that became a layer, of ones."""
    layer = alone if alone.target in _CONVOLUTIONS else node_arg(alone, 0)
    ones = torch.ones_like(constant_value(module, node_arg(layer, 1)))
    _note(module, layer, norm, Kept(f"{norm.name}_ones", ones), None)


def _drop(norm: fx.Node, result: fx.Node, into: fx.Node) -> None:
    """Take the norm out of the graph; `into` gives what it gave."""
    absorb(into, norm, result)
    replace(result, into)
    if norm is not result:
        norm.graph.erase_node(norm)


def _affine(module: fx.GraphModule, node: fx.Node) -> tuple[Tensor, Tensor]:
    gamma, beta = (_optional(module, a) for a in arguments(node)[1:3])
    mean, var = (constant_value(module, node_arg(node, position)).double() for position in (3, 4))
    eps = float_arg(node, "eps")
    scale = 1.0 / torch.sqrt(var + eps)
    scale = scale if gamma is None else scale * gamma
    shift = -mean * scale
    return scale, shift if beta is None else shift + beta


def _optional(module: fx.GraphModule, argument: object) -> Tensor | None:
    return constant_value(module, argument).double() if isinstance(argument, fx.Node) else None


def _are_constants(arguments: Iterable[object]) -> bool:
    return all(not isinstance(a, fx.Node) or a.op == "get_attr" for a in arguments)


def _is_foldable(layer: fx.Node) -> bool:
    if layer.target not in _PRODUCTS or len(layer.users) != 1:
        return False
    # Over signals, the channels of the norm are not the features of a linear layer.
    if layer.target is aten.linear.default and layer.meta["val"].ndim != 2:
        return False
    return _are_constants(arguments(layer)[1:3])


def _fold(module: fx.GraphModule, layer: fx.Node, scale: Tensor, shift: Tensor) -> None:
    weight = constant_value(module, node_arg(layer, 1))
    bias = _optional(module, argument(layer, "bias"))
    new_bias = shift if bias is None else bias * scale + shift
    with module.graph.inserting_before(layer):
        weight_node = add_constant(module, _scaled(layer, weight.double(), scale).float(), f"{layer.name}_weight")
        bias_node = add_constant(module, new_bias.float(), f"{layer.name}_bias")
    layer.args = (layer.args[0], weight_node, bias_node, *layer.args[3:])


def _scaled(layer: fx.Node, weight: Tensor, scale: Tensor) -> Tensor:
    """`weight` with the channels of the result times `scale`."""
    if layer.target not in _TRANSPOSED:
        return weight * scale.reshape(-1, *[1] * (weight.ndim - 1))
    # A transposed convolution has (in, out / groups, ...): each group's channels of the result are on axis 1.
    groups = int_arg(layer, "groups")
    grouped = weight.reshape(groups, -1, *weight.shape[1:])
    return (grouped * scale.reshape(groups, 1, -1, *[1] * (weight.ndim - 2))).reshape(weight.shape)


def _depthwise(module: fx.GraphModule, x: fx.Node, scale: Tensor, shift: Tensor, norm: fx.Node) -> fx.Node | None:
    ndim = x.meta["val"].ndim
    if ndim not in (2, 3, 4, 5):
        return None
    graph, channels = module.graph, len(scale)
    spatial = max(ndim, 3) - 2
    weight = add_constant(module, scale.float().reshape(channels, 1, *[1] * spatial), f"{norm.name}_scale")
    bias = add_constant(module, shift.float(), f"{norm.name}_shift")
    target = _CONVOLUTIONS[spatial - 1]
    source = call(graph, aten.unsqueeze.default, x, -1, like=norm) if ndim == 2 else x
    settings = ([1] * spatial, [0] * spatial, [1] * spatial, channels)
    out = call(graph, target, source, weight, bias, *settings, like=norm)
    return call(graph, aten.squeeze.dim, out, -1, like=norm) if ndim == 2 else out
