"""What tiles read of activations: the type of the elements in memory, and how many neighbours are multiplied at a time.

    uint8   4   x86: `vpdpbusd`, or `vpmaddubsw` where weights allow it
    int16   2   x86: `vpdpwssd`, `vpmaddwd`
    int8        strips, in steps of the instruction set's own
    int16       the same: `smlad`, `vmladava.s16`, `smlal`

Weights are s8 whatever the operand, in the order of the operand's steps.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from fxquant.targets.kernels.contract.kernel import Declined, TensorSpec
from fxquant.targets.kernels.words.tir import argument, load
from fxquant.targets.kernels.words.x86 import Isa, broadcast_pair, broadcast_quad, dot_pairs, dot_quads
from fxquant.targets.tvm_api import T


@dataclass(frozen=True)
class Operand:
    """Elements of a type."""

    dtype: str

    @property
    def itemsize(self) -> int:
        """Bytes of an element."""
        return np.dtype(self.dtype).itemsize

    def declines(self, kernel: str, x: TensorSpec) -> Declined | None:
        """What is of another type belongs to another kernel."""
        return None if x.dtype == self.dtype else Declined(kernel)


@dataclass(frozen=True)
class Window(Operand):
    """`taps` elements that meet as many weights in one 32-bit lane: the operand of x86."""

    taps: int

    def is_exact(self, isa: Isa) -> bool:
        """Whether a product of windows is exact for all weights; that of bytes may saturate."""
        return self.itemsize > 1 or isa.exact_quads

    def inputs(self, buffer: Any, at: Any, lanes: int) -> Any:
        """The elements of a window in each lane."""
        return (broadcast_pair if self.itemsize > 1 else broadcast_quad)(buffer, at, lanes)

    def weights(self, buffer: Any, at: Any, lanes: int) -> Any:
        """The s8 weights of a window for so many channels, as they are multiplied."""
        few = load(buffer, at, lanes * self.taps)
        return T.cast(few, f"int16x{lanes * self.taps}") if self.itemsize > 1 else few

    def dot(self, isa: Isa, acc: Any, inputs: Any, weights: Any) -> Any:
        """acc + the sum of a window's products, by lane."""
        return (dot_pairs if self.itemsize > 1 else dot_quads)(isa, acc, inputs, weights)


QUADS, PAIRS = Window("uint8", 4), Window("int16", 2)
S8, S16 = Operand("int8"), Operand("int16")


def window_of(x: TensorSpec) -> Window:
    """The one of x86 that reads a tensor."""
    return PAIRS if x.dtype == PAIRS.dtype else QUADS


def alignment(dtype: str) -> int:
    """Bytes that an activation's elements lie at multiples of; accumulators, which are rare, at any place."""
    return 2 if dtype == "int16" else 1


def tensor(name: str, spec: TensorSpec) -> Any:
    """An argument that holds activations."""
    return argument(name, spec.extent, spec.dtype, alignment(spec.dtype))
