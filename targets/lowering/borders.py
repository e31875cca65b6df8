"""Borders: the padding that a convolution reads lies around its input in memory and holds the zero point."""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import fx

from fxquant.arguments import int_arg, ints_arg, node_arg
from fxquant.graph import shape
from fxquant.primitives import primitives_with
from fxquant.targets.buffers import Tensor
from fxquant.targets.kernels.contract.kernel import Kernel, TensorSpec
from fxquant.targets.kernels.words.tir import argument, prim_func
from fxquant.targets.tvm_api import I, tirx

fxq = torch.ops.fxq

# Nodes whose result is new memory, so that it can have a border.
PRODUCERS = (
    *primitives_with(lambda facts: facts.is_image),
    torch.ops.aten.cat.default,
    torch.ops.aten.flip.default,
)


@dataclass(frozen=True)
class Border:
    """Elements before and after the last axes of an image (H, W), and the value that they hold."""

    top: int
    bottom: int
    left: int
    right: int
    value: int

    @property
    def is_wide(self) -> bool:
        """Whether there is any element in it."""
        return any((self.top, self.bottom, self.left, self.right))

    def around(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """The shape with the border."""
        n, c, h, w = shape
        return n, c, h + self.top + self.bottom, w + self.left + self.right

    def inner(self, whole: Tensor) -> Tensor:
        """The view inside the border."""
        _, _, h, w = whole.shape
        rows = whole.sliced(2, self.top, h - self.top - self.bottom)
        return rows.sliced(3, self.left, w - self.left - self.right)

    def sides(self, whole: Tensor) -> tuple[Tensor, ...]:
        """The four parts of the border: above, below, and left and right of the rows between."""
        h, w = whole.shape[2:]
        between = whole.sliced(2, self.top, h - self.top - self.bottom)
        return (
            whole.sliced(2, 0, self.top),
            whole.sliced(2, h - self.bottom, self.bottom),
            between.sliced(3, 0, self.left),
            between.sliced(3, w - self.right, self.right),
        )

    def outer(self, inner: Tensor) -> Tensor:
        """The view that takes in this border around an inner view."""
        _, _, h, w = self.around(inner.shape)
        return inner.sliced(2, -self.top, h).sliced(3, -self.left, w)

    def covers(self, other: Border) -> bool:
        """Whether everything that `other` wants is there."""
        mine, its = (self.top, self.bottom, self.left, self.right), (other.top, other.bottom, other.left, other.right)
        return self.value == other.value and all(a >= b for a, b in zip(mine, its, strict=True))

    def within(self, room: Border) -> Border:
        """What is left of `room` around this border."""
        return replace(
            room,
            top=room.top - self.top,
            bottom=room.bottom - self.bottom,
            left=room.left - self.left,
            right=room.right - self.right,
        )

    def plus(self, other: Border) -> Border:
        """A border as wide as this and the other one together."""
        return replace(
            self,
            top=self.top + other.top,
            bottom=self.bottom + other.bottom,
            left=self.left + other.left,
            right=self.right + other.right,
        )


def conv_border(node: fx.Node) -> Border | None:
    """The border that a 2-d convolution wants around its operand."""
    if node.target is not fxq.conv.default or len(ints_arg(node, "padding")) != 2:
        return None
    h, w = ints_arg(node, "padding")
    return Border(h, h, w, w, int_arg(node, "zero_point")) if h or w else None


def pad_border(node: fx.Node) -> Border | None:
    """The border that an `fxq.pad` of an image adds."""
    if node.target is not fxq.pad.default or len(shape(node)) != 4:
        return None
    left, right, top, bottom, *others = [*ints_arg(node, "widths"), 0, 0, 0, 0]
    if any(others) or min(left, right, top, bottom) < 0:
        return None
    return Border(top, bottom, left, right, int_arg(node, "value"))


def borders(graph: fx.Graph) -> dict[fx.Node, Border]:
    """The widest border that the readers of each value want, where its producer can write inside one."""
    wanted: dict[fx.Node, Border] = {}
    for node in reversed(graph.nodes):
        border = conv_border(node) or pad_border(node)
        if border is None:
            continue
        after = wanted.get(node) if node.target is fxq.pad.default else None
        if after is not None and after.value == border.value:
            border = border.plus(after)
        source = node_arg(node, "x")
        if source.target in PRODUCERS or source.target is fxq.pad.default:
            wanted[source] = widest(wanted.get(source, border), border)
    return wanted


def widest(a: Border, b: Border) -> Border:
    """A border that covers both; of two different values the first one's."""
    if a.value != b.value:
        return a
    return Border(max(a.top, b.top), max(a.bottom, b.bottom), max(a.left, b.left), max(a.right, b.right), a.value)


def border_kernel(spec: TensorSpec, border: Border) -> Kernel:
    """Fill the border of a dense channels-last image (with it in `spec`); the function is `void f(task, out)`."""
    samples, channels, height, width = spec.shape
    row = width * channels
    with prim_func("border") as finish:
        I.arg("task", I.int32())
        out = argument("out", spec.extent, spec.dtype, 1)
        value = tirx.const(border.value + spec.bias, spec.dtype)

        def fill(start: Any, count: int) -> None:
            if count:
                with I.serial(0, count) as i:
                    I.buffer_store(out, value, [start + i])

        with I.serial(0, samples) as n:
            first = n * height * row
            fill(first, border.top * row)
            with I.serial(border.top, height - border.bottom) as y:
                fill(first + y * row, border.left * channels)
                fill(first + (y + 1) * row - border.right * channels, border.right * channels)
            fill(first + (height - border.bottom) * row, border.bottom * row)
    return Kernel(finish(), 1)
