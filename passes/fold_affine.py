"""Sums and products with a constant per channel, one behind the other, as the one batch norm that they are.

%a = div(%x, 255.0); %b = sub(%a, %mean); %c = div(%b, %deviation)   =>   %c = batch_norm(%x, %scale, %shift, 0, 1)

`FoldBatchNorm` then puts it into the layer before it, or makes it a convolution of its own, whose weights have a scale
per channel: one rounding in the place of three, and no constant is rounded to the range of another one.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxquant.arguments import argument
from fxquant.graph import absorb, add_constant, call, calls, clean, constant_value, is_float, replace, shape
from fxquant.passmanager import Pass

aten = torch.ops.aten

_SUMS = (aten.add.Tensor, aten.sub.Tensor)
_PRODUCTS = (aten.mul.Tensor, aten.div.Tensor)


@dataclass(frozen=True)
class _Step:
    """A call as scale * x + shift, one of each for each channel; `per_channel` if it has several scales."""

    source: fx.Node
    scale: Tensor
    shift: Tensor
    per_channel: bool


@dataclass(frozen=True)
class FoldAffine(Pass):
    """Sums and products with a constant per channel as the one batch norm that they are."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Chains end where something else, or more than one, reads a value; one without a scale per channel stays."""
        for last in calls(module.graph, *_SUMS, *_PRODUCTS):
            if len(last.users) == 1 and _step(module, next(iter(last.users)), last) is not None:
                continue
            chain, found = [last], _step(module, last)
            while found is not None and len(found.source.users) == 1:
                before = _step(module, found.source)
                if before is None:
                    break
                chain.append(found.source)
                shift = found.scale * before.shift + found.shift
                per_channel = found.per_channel or before.per_channel
                found = _Step(before.source, found.scale * before.scale, shift, per_channel)
            if found is not None and found.per_channel:
                _normalize(module, chain, found)
        return clean(module)


def _step(module: fx.GraphModule, node: fx.Node, of: fx.Node | None = None) -> _Step | None:
    """What a call computes of `of`, or of its one operand that is no constant; None if that is no such function."""
    if node.target not in (*_SUMS, *_PRODUCTS) or not 3 <= len(shape(node)) <= 5 or not is_float(node):
        return None
    a, b = node.args[:2]
    left = _per_channel(module, a, node)
    x, constant = (b, left) if left is not None else (a, _per_channel(module, b, node))
    if not isinstance(x, fx.Node) or x.op == "get_attr" or constant is None or not is_float(x):
        return None
    if (of is not None and x is not of) or str(shape(x)) != str(shape(node)):
        return None
    one, zero, many = torch.ones_like(constant), torch.zeros_like(constant), bool((constant != constant[0]).any())
    if node.target is aten.mul.Tensor:
        return _Step(x, constant, zero, many)
    if node.target is aten.div.Tensor:
        return _Step(x, 1.0 / constant, zero, many) if left is None and bool((constant != 0).all()) else None
    alpha = float(argument(node, "alpha")) * (1.0 if node.target is aten.add.Tensor else -1.0)
    return _Step(x, one, alpha * constant, False) if left is None else _Step(x, alpha * one, constant, False)


def _per_channel(module: fx.GraphModule, operand: object, node: fx.Node) -> Tensor | None:
    """A number, or a constant with one for each channel, as one for each channel."""
    channels, ndim = int(shape(node)[1]), len(shape(node))
    if isinstance(operand, (int, float)):
        return torch.full([channels], float(operand), dtype=torch.float64)
    if not isinstance(operand, fx.Node) or operand.op != "get_attr" or not is_float(operand):
        return None
    value = constant_value(module, operand).double()
    sizes = [1] * (ndim - value.ndim) + list(value.shape)
    if len(sizes) != ndim or any(n != 1 for axis, n in enumerate(sizes) if axis != 1) or sizes[1] not in (1, channels):
        return None
    return value.reshape(-1).expand(channels)


def _normalize(module: fx.GraphModule, chain: list[fx.Node], found: _Step) -> None:
    last, channels = chain[0], len(found.scale)
    with module.graph.inserting_before(last):
        values = found.scale, found.shift, torch.zeros(channels), torch.ones(channels)
        roles = ("scale", "shift", "mean", "variance")
        constants = [
            add_constant(module, v.float(), f"{last.name}_{role}") for v, role in zip(values, roles, strict=True)
        ]
        settings = False, 0.0, 0.0, False
        norm = call(module.graph, aten.batch_norm.default, found.source, *constants, *settings, like=chain[-1])
    absorb(norm, *chain[::-1])
    replace(last, norm)
