"""What every kernel template takes and gives: strided tensors in, a task-parallel PrimFunc out."""

from __future__ import annotations

from collections.abc import Callable, Hashable, Mapping
from dataclasses import dataclass, field
from math import prod
from typing import Any

import numpy as np


@dataclass(frozen=True)
class TensorSpec:
    """A tensor of one sample in memory.

    `shape` and `strides` are in elements and in the order of the graph (channels before height and width), whatever the
    order in memory; the pointer a kernel receives already points at element (0, ..., 0). Memory holds `value + bias`:
    an s8 activation is kept as u8 with a bias of 128 where the instruction set multiplies u8 by s8.
    """

    dtype: str
    shape: tuple[int, ...]
    strides: tuple[int, ...]
    bias: int = 0

    @property
    def size(self) -> int:
        """Number of elements."""
        return prod(self.shape)

    @property
    def extent(self) -> int:
        """Elements from the first to one past the last, as a flat buffer."""
        return self.span[1] + 1

    @property
    def span(self) -> tuple[int, int]:
        """The first and the last element in memory, counted from element (0, ..., 0); (0, -1) where there is none."""
        if not self.size:
            return 0, -1
        reaches = [(n - 1) * s for n, s in zip(self.shape, self.strides, strict=True)]
        return sum(r for r in reaches if r < 0), sum(r for r in reaches if r > 0)

    def is_whole(self, low: int, high: int) -> bool:
        """Whether the values low ... high are all that an integer type stores."""
        info = np.iinfo(self.dtype)
        return (low + self.bias, high + self.bias) == (info.min, info.max)


@dataclass(frozen=True)
class Kernel:
    """A compiled-to-be function `void f(int32 task, buffers...)` and how many tasks make up the whole operation.

    Tasks are independent and may run in any order on any thread. `scratch` is the number of bytes of private memory per
    thread that the function takes as its last argument (0: no such argument).
    """

    func: Any
    tasks: int
    scratch: int = 0


@dataclass(frozen=True)
class Expansion:
    """A constant that is stored in another form than its kernel reads, and expanded when a model is loaded.

    `build` gives the kernel `void f(int32 task, stored, expanded)`; `key` is what that depends on. `bytes` is the
    expanded size.
    """

    key: Hashable
    build: Callable[[], Kernel]
    bytes: int


@dataclass(frozen=True)
class Declined:
    """A faster kernel that does not take a problem, and why; no reason where it is for problems of another kind."""

    kernel: str
    reason: str = ""


@dataclass(frozen=True)
class Choice:
    """A kernel template with its tile and packed constants, and how those are expanded that are stored smaller.

    The kernel is `void f(int32 task, x, constants in this order..., [residual], out, [scratch])`. `in_place`: it reads
    each element of the residual before it writes that of the result, and only then. `lead`: the result may be written
    over x where it begins at least so many bytes before it (None: never). `declined` are the kernels that were asked
    before, and that had a reason to be told.
    """

    name: str
    tile: Any
    build: Callable[[], Kernel]
    constants: dict[str, np.ndarray[Any, Any]]
    expansions: Mapping[str, Expansion] = field(default_factory=dict)
    in_place: bool = True
    lead: int | None = None
    declined: tuple[Declined, ...] = ()
