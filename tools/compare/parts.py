"""What a layer's error is made of: its weights, its operands, the rounding of its result, and clipping; channels that
stand out.

    sums of real operands with rounded weights and biases  -  real sums                =  weights
    sums of rounded operands with the same weights         -  sums of real operands    =  operands
    real values, cut at the ends of their range            -  real values              =  clipping
    real values, rounded                                   -  cut values               =  rounding

The first two are of the sums of the layer's products, the others of its value. All are powers against that of what is
real, in dB, each by itself: nothing that layers before have lost is in them.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.arguments import argument, int_arg, node_arg
from fxquant.gains import decibels
from fxquant.plan import range_of
from fxquant.qparams import QParams
from fxquant.source import name_of
from fxquant.tools.compare.records import Outlier, Parts

fxq = torch.ops.fxq

PRODUCTS = (fxq.conv.default, fxq.conv_transpose.default, fxq.linear.default)
# From so many times the median of all channels on, one stands out: it takes three bits from the others.
STANDS_OUT = 8.0


@dataclass
class Powers:
    """Of real values, and of what each origin makes of them."""

    signal: float = 0.0
    noise: defaultdict[str, float] = field(default_factory=lambda: defaultdict(float))

    def add(self, real: Tensor, **errors: Tensor) -> None:
        """Take in one batch."""
        self.signal += _power(real)
        for origin, error in errors.items():
            self.noise[origin] += _power(error)

    def db(self, origin: str) -> float:
        """What is real against this origin's error."""
        return decibels(self.signal, self.noise[origin])


class Sums:
    """The errors of sums, by the name of the value that they become."""

    def __init__(self) -> None:
        self.powers: defaultdict[str, Powers] = defaultdict(Powers)

    def add(self, node: fx.Node, args: Sequence[Any], truth: Mapping[str, Tensor], integers: Tensor) -> None:
        """One batch of a node whose operands are the faithful integers of `truth`; nothing for what is no product."""
        weight, value = node.meta.get("fxq.weight_qparams"), _value_of(node)
        if node.target not in PRODUCTS or not isinstance(weight, QParams) or value is None:
            return
        read, real = (truth.get(str(n.meta.get("fxq.origin"))) for n in (node_arg(node, 0), node))
        found = range_of(node_arg(node, 0))
        if read is None or real is None or found is None or read.shape != args[0].shape or real.shape != integers.shape:
            return
        scale = _along(torch.tensor(weight.scale) * found.qparams.one_scale, node)
        sums = _sums(node, read.float() / found.qparams.one_scale, args[1].float(), args[2])
        rounded = integers.double() * 2.0 ** int_arg(node, "drop")
        self.powers[name_of(value)].add(real, weights=sums * scale - real, operands=(rounded - sums) * scale)


def split(value: Powers, sums: Powers | None) -> Parts:
    """All parts of a layer's error in dB; without weights and operands where it multiplies nothing."""
    weights, operands = (None, None) if sums is None else (sums.db("weights"), sums.db("operands"))
    return Parts(weights, operands, value.db("rounding"), value.db("clipping"))


@dataclass
class Channels:
    """The largest magnitude of every channel: along the first axis behind the batch, and along the last."""

    most: dict[int, Tensor | None] = field(default_factory=dict)

    def add(self, real: Tensor) -> None:
        """Take in one batch; an axis whose length changes has no channels."""
        for axis in {1, real.ndim - 1} if real.ndim > 1 else ():
            found = real.abs().movedim(axis, 0).flatten(1).amax(1)
            known = self.most.get(axis, found)
            same = known is not None and known.shape == found.shape
            self.most[axis] = torch.maximum(known, found) if known is not None and same else None

    def outlier(self) -> Outlier | None:
        """The channel that stands out the most, if one does."""
        found = [_outlier(axis, most) for axis, most in self.most.items() if most is not None]
        return max((one for one in found if one.times >= STANDS_OUT), key=lambda one: one.times, default=None)


def _outlier(axis: int, most: Tensor) -> Outlier:
    middle, channel = float(most.median()), int(most.argmax())
    return Outlier(axis, channel, float(most[channel]) / middle if middle else 0.0)


def _value_of(product: fx.Node) -> fx.Node | None:
    """What sums become: the first value behind them that has a range."""
    node = product
    while range_of(node) is None:
        if not node.users:
            return None
        node = next(iter(node.users))
    return node


def _along(scale: Tensor, node: fx.Node) -> Tensor:
    ndim = node.meta["val"].ndim
    if node.target is fxq.linear.default or scale.numel() == 1:
        return scale.double()
    groups = int_arg(node, "groups") if node.target is fxq.conv_transpose.default else 1
    return scale.double().repeat(groups).reshape(1, -1, *[1] * (ndim - 2))


def _sums(node: fx.Node, x: Tensor, weight: Tensor, bias: Tensor | None) -> Tensor:
    """The product's sums of operands that are no integers."""
    if node.target is fxq.linear.default:
        found = F.linear(x, weight)
    else:
        stride, padding, dilation = (argument(node, name) for name in ("stride", "padding", "dilation"))
        groups, flat = int_arg(node, "groups"), len(stride) == 1
        if node.target is fxq.conv.default:
            conv: Any = torch.conv1d if flat else torch.conv2d
            found = conv(x, weight, None, stride, padding, dilation, groups)
        else:
            spread: Any = torch.conv_transpose1d if flat else torch.conv_transpose2d
            found = spread(x, weight, None, stride, padding, argument(node, "output_padding"), groups, dilation)
    if bias is None:
        return found.double()
    shape = [-1] if node.target is fxq.linear.default else [1, -1, *[1] * (found.ndim - 2)]
    return found.double() + bias.double().reshape(shape)


def _power(value: Tensor) -> float:
    return float(value.double().square().sum())
