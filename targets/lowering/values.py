"""What the integer graph's values are in compiled code: buffers, and strided views of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from math import prod
from typing import Any, Literal

import numpy as np
import torch

from fxquant.targets.kernels.kernel import TensorSpec

Kind = Literal["arena", "constant", "input", "output"]

# Kernels may read (and multiply by zero) a few bytes past the end of a tensor.
SLACK = 64


@dataclass(eq=False)
class Buffer:
    """A piece of memory: in the arena (placed by the planner), a constant, or a port of the network.

    A constant has `data`, or it `expands` another constant when a model is loaded.
    """

    name: str
    kind: Kind
    bytes: int
    data: np.ndarray[Any, Any] | None = None
    expands: Expands | None = None


@dataclass(frozen=True)
class Expands:
    """The kernel `symbol` makes a constant from another one, which is stored in its place."""

    symbol: str
    stored: Buffer


@dataclass(frozen=True)
class Tensor:
    """A strided view into a buffer; `offset` is in elements."""

    buffer: Buffer
    spec: TensorSpec
    offset: int = 0

    @property
    def shape(self) -> tuple[int, ...]:
        """Logical shape, batch first."""
        return self.spec.shape

    @property
    def itemsize(self) -> int:
        """Bytes per element."""
        return np.dtype(self.spec.dtype).itemsize

    @property
    def byte_offset(self) -> int:
        """Where element (0, ..., 0) is in the buffer."""
        return self.offset * self.itemsize

    @property
    def order(self) -> tuple[int, ...]:
        """Axes in the order of memory, outermost first."""
        return tuple(sorted(range(len(self.shape)), key=lambda a: (-self.spec.strides[a], self.shape[a] > 1, a)))

    def viewed(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Tensor | None:
        """The view that a torch operation makes of this one, or None where torch would have to copy."""
        room = self.offset + self.spec.extent
        base = torch.empty(room, dtype=torch.int8, device="meta")
        source = base.as_strided(self.spec.shape, self.spec.strides, self.offset)
        try:
            moved = move(source)
        except RuntimeError:
            return None
        if not moved._is_view():
            return None
        spec = replace(self.spec, shape=tuple(moved.shape), strides=tuple(moved.stride()))
        return Tensor(self.buffer, spec, int(moved.storage_offset()))

    def rows(self) -> Tensor | None:
        """The view with all axes but the last merged into one, if strides allow it."""
        return self.viewed(lambda t: t.view(-1, t.shape[-1]))


def channels_last(shape: Sequence[int]) -> tuple[int, ...]:
    """The order of axes in memory, outermost first: channels innermost for images and signals."""
    axes = range(len(shape))
    return (0, 2, 3, 1) if len(shape) == 4 else tuple(axes)


def strides_for(shape: Sequence[int], order: Sequence[int]) -> tuple[int, ...]:
    """Dense strides with the axes in the given order, outermost first."""
    strides = [0] * len(shape)
    step = 1
    for axis in reversed(order):
        strides[axis] = step
        step *= max(shape[axis], 1)
    return tuple(strides)


def element_count(shape: Sequence[int]) -> int:
    """Number of elements."""
    return prod(shape)
