"""Remove channels, and with them all that are tied to them: rows and columns of weights, norms, places of slices.

    %c = conv2d(%x, %w[8,3,3,3]);  %l = linear(flatten(relu(%c)), %v[10,128])    channels {"c": (0, 5)}
  =>  %c = conv2d(%x, %w[6,3,3,3]);  %l = linear(flatten(relu(%c)), %v[10,96])

What it gives computes what the graph computed with the readers' weights of those channels at zero.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from operator import attrgetter
from typing import Any

import torch
from torch import Tensor, fx, nn

from fxquant.arguments import argument, arguments
from fxquant.channels import SIZED, Following, follow, varying
from fxquant.errors import PassError
from fxquant.graph import infer, sample_shape
from fxquant.passmanager import Pass
from fxquant.source import describe, name_of

aten = torch.ops.aten


@dataclass(frozen=True)
class RemoveChannels(Pass):
    """Remove channels of layers, given by the layers' names, with all that are tied to them.

    Raises PassError for a layer that is none, and for a channel that has to stay, with the reason.
    """

    channels: Mapping[str, tuple[int, ...]] = field(default_factory=dict)

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Follow, cut constants, say sizes and places anew, compute the shapes."""
        found = follow(module)
        groups = self._groups(found)
        sizes = {node: _sizes(found, node, groups) for node in found.labels}
        for node in found.labels:
            if node.op == "call_function":
                _respell(found, node, groups, sizes)
        for constant, axes in found.axes.items():
            _cut(module, constant, axes, found, groups)
        for node in module.graph.nodes:
            _shape(module, node, sizes)
        return module

    def _groups(self, found: Following) -> set[int]:
        layers = {name_of(layer.node): layer for layer in found.layers}
        groups: set[int] = set()
        for name, channels in self.channels.items():
            if name not in layers:
                raise PassError(f"no layer {name!r} whose channels are followed; there are: {', '.join(layers)}")
            places = torch.tensor(channels, dtype=torch.long)
            if len(places) and not 0 <= int(places.min()) <= int(places.max()) < len(layers[name].rows):
                raise PassError(f"{name} has the channels 0 to {len(layers[name].rows) - 1}, not all of {channels}")
            groups.update(found.roots[layers[name].rows[places]].tolist())
        for group in groups:
            if group in found.kept:
                raise PassError(f"a channel of {', '.join(self.channels)} has to stay: {found.kept[group]}")
        for layer in found.layers:
            if any(bool(found.removed(labels, groups).all()) for labels in (layer.rows, layer.columns)):
                raise PassError(f"{describe(layer.node)} would have no channel left: remove fewer")
        return groups


def _sizes(found: Following, node: fx.Node, groups: Iterable[int]) -> list[int]:
    labels = found.labels[node]
    sizes = list(labels.shape)
    for axis in varying(labels):
        sizes[axis] = len(found.keeps(labels, groups, axis))
    return sizes


def _respell(found: Following, node: fx.Node, groups: set[int], sizes: dict[fx.Node, list[int]]) -> None:
    """Sizes and places of channels that a call's arguments name."""
    args = arguments(node)
    if node.target in SIZED:
        changed = [a for a, n in enumerate(sizes[node]) if n != found.labels[node].shape[a]]
        wanted = [sizes[node][a] if a in changed and args[1][a] != -1 else n for a, n in enumerate(args[1])]
        node.update_arg(1, wanted)
    elif node.target is aten.slice.Tensor:
        _replace(found, node, groups)
    elif any(layer.node is node for layer in found.layers) and "groups" in _names(node):
        before, after = len(_channels(found, node)), sizes[node.args[0]][1]  # type: ignore[index]
        count = int(argument(node, "groups"))
        if before == count > 1 and after != before:
            _set(node, "groups", after)


def _channels(found: Following, node: fx.Node) -> Tensor:
    return next(layer.columns for layer in found.layers if layer.node is node)


def _names(node: fx.Node) -> list[str]:
    return [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]


def _set(node: fx.Node, name: str, value: Any) -> None:
    place = _names(node).index(name)
    args = list(arguments(node))
    args[place] = value
    node.args = tuple(args[: max(place + 1, len(node.args))])


def _replace(found: Following, node: fx.Node, groups: set[int]) -> None:
    labels = found.labels[node.args[0]]  # type: ignore[index]
    axis = int(argument(node, "dim")) % labels.ndim
    if axis not in varying(labels):
        return
    kept, length = found.keeps(labels, groups, axis), labels.shape[axis]
    if len(kept) == length:
        return
    for name, otherwise in (("start", 0), ("end", length)):
        place = argument(node, name)
        place = otherwise if place is None else int(place) + (length if int(place) < 0 else 0)
        _set(node, name, int((kept < min(place, length)).sum()))


def _cut(module: fx.GraphModule, name: str, axes: list[tuple[int, Tensor]], found: Following, groups: set[int]) -> None:
    """A constant without the rows and columns of removed channels; a parameter stays one, and its own."""
    tensor = attrgetter(name)(module)
    value = tensor.detach()
    for axis, labels in dict(axes).items():
        value = value.index_select(axis, found.keeps(labels, groups, 0).to(value.device))
    if value.shape == tensor.shape:
        return
    owner, _, leaf = name.rpartition(".")
    place = module.get_submodule(owner)
    if isinstance(tensor, nn.Parameter):
        setattr(place, leaf, nn.Parameter(value.clone(), requires_grad=tensor.requires_grad))
    else:
        place.register_buffer(leaf, value.clone())


def _shape(module: fx.GraphModule, node: fx.Node, sizes: dict[fx.Node, list[int]]) -> None:
    if node.op == "get_attr":
        tensor = attrgetter(str(node.target))(module)
        old = node.meta["val"]
        if tuple(old.shape) != tuple(tensor.shape):
            node.meta["val"] = old.new_empty(tensor.shape)
    elif node.op == "call_function" and isinstance(node.meta.get("val"), Tensor):
        infer(node)
        wanted = sizes.get(node)
        if wanted is not None and list(sample_shape(node.meta["val"])) != wanted:
            raise PassError(f"{describe(node)} has the shape {sample_shape(node.meta['val'])}, not {wanted}")
    node.meta.pop("tensor_meta", None)
