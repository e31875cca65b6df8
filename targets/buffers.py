"""What the integer graph's values are in compiled code: buffers, and strided views of them."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Literal

import numpy as np
import torch

from fxquant.errors import LoweringError
from fxquant.targets.kernels.contract.kernel import TensorSpec

Kind = Literal["arena", "constant", "input", "output", "state"]

# The axes of a signal (N, C, L) whose channels are innermost, outermost first.
SIGNAL = (0, 2, 1)
# Kernels may read (and multiply by zero) a few bytes past the end of a tensor.
SLACK = 64


@dataclass(eq=False)
class Buffer:
    """A piece of memory: in the arena (placed by the planner), a constant, a port of the network, or its state.

    The state is the caller's, as ports are, and lives between runs, each piece at a planned place.

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

    def sliced(self, axis: int, start: int, size: int, step: int = 1) -> Tensor:
        """`size` places of one axis, every `step`-th from `start` on, which may lie in a border around the tensor."""
        shape, strides = list(self.shape), list(self.spec.strides)
        offset = self.offset + start * strides[axis]
        shape[axis], strides[axis] = size, strides[axis] * step
        return Tensor(self.buffer, replace(self.spec, shape=tuple(shape), strides=tuple(strides)), offset)

    def sample(self, n: int) -> Tensor:
        """Sample `n`, without the batch axis."""
        spec = replace(self.spec, shape=self.shape[1:], strides=self.spec.strides[1:])
        return Tensor(self.buffer, spec, self.offset + n * self.spec.strides[0])

    def image(self) -> Tensor:
        """A signal (N, C, L) as an image (N, C, 1, L); an image itself."""
        if len(self.shape) == 4:
            return self
        (samples, channels, length), (n, c, step) = self.shape, self.spec.strides
        return replace(self, spec=replace(self.spec, shape=(samples, channels, 1, length), strides=(n, c, 0, step)))

    def view(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Tensor:
        """The view that a torch operation makes of this one; raises LoweringError where torch would have to copy."""
        found = self.try_view(move)
        if found is None:
            raise LoweringError(f"{self.buffer.name}: strides {self.spec.strides} do not allow this view")
        return found

    def try_view(self, move: Callable[[torch.Tensor], torch.Tensor]) -> Tensor | None:
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

    @staticmethod
    def new(name: str, kind: Kind, spec: TensorSpec) -> Tensor:
        """A tensor that fills a buffer of its own; `spec` is dense."""
        return Tensor(Buffer(name, kind, spec.size * np.dtype(spec.dtype).itemsize), spec)


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


def row_major(dtype: str, shape: Sequence[int], bias: int = 0) -> TensorSpec:
    """Dense memory with the last axis innermost."""
    return TensorSpec(dtype, tuple(shape), strides_for(shape, range(len(shape))), bias)


def pair(settings: Sequence[int], missing: int) -> tuple[int, int]:
    """Settings (stride, padding, ...) per axis of an image; a signal's as an image's, with `missing` for the height."""
    return (settings[0], settings[1]) if len(settings) == 2 else (missing, settings[0])


def dtype_name(dtype: torch.dtype) -> str:
    """'int8', 'float32', ..."""
    return str(dtype).removeprefix("torch.")
