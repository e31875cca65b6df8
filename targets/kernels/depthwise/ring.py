"""Depthwise convolution, a vector of channels at a time (one, where the instruction set has no vectors).

    void f(int32 task, x, weights, bias, zero, [multiplier, numbers, [table]], [residual], out, scratch)

Rows of bytes stand in a ring with the zero point as padding, which is folded into the bias: no tap tests for an edge or
subtracts anything. All taps are unrolled.

    weights   s8 [kernel row][kernel column][channel], or of fewer bits
    scratch   s8 ring of rows | weights of fewer bits, once they are widened
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial
from math import ceil, prod
from typing import Any

import numpy as np

from fxquant.targets.kernels.contract.epilogue import Numbers
from fxquant.targets.kernels.contract.kernel import Choice, Declined, Kernel
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.contract.template import Template
from fxquant.targets.kernels.epilogue import rounding
from fxquant.targets.kernels.parts.overlap import lead
from fxquant.targets.kernels.parts.params import Param, declare, pack
from fxquant.targets.kernels.parts.ring import Ring, fill
from fxquant.targets.kernels.parts.weights import Stored
from fxquant.targets.kernels.words.pieces import dealt
from fxquant.targets.kernels.words.tir import argument, load, prim_func, put
from fxquant.targets.tvm_api import I, T

# Taps that are unrolled; larger windows are computed by plain loops.
MOST_TAPS = 49
# Bytes of weights of fewer bits that are widened at once.
CHUNK = 16


class Depthwise(Template):
    """Vectors of `lanes` channels, rounded by the instructions `vectors` where they are special.

    A layer of fewer channels, but `fewest`, is one vector of as many.
    """

    NAME = "depthwise"

    def __init__(self, lanes: int, vectors: rounding.Vectors | None = None, fewest: int | None = None) -> None:
        self.lanes, self.vectors, self.fewest = lanes, vectors, fewest or lanes

    def declines(self, problem: ConvProblem, layer: Layer) -> Declined | None:
        """Other operands than s8, and windows of very many taps."""
        if not problem.is_depthwise:
            return Declined(self.NAME)
        if problem.x.dtype != "int8":
            return Declined(self.NAME, f"{problem.x.dtype} operand")
        taps = prod(problem.kernel)
        return Declined(self.NAME, f"{taps} taps, more than {MOST_TAPS}") if taps > MOST_TAPS else None

    def tiles(self, problem: ConvProblem, layer: Layer) -> Sequence[None]:
        """There is one way."""
        return (None,)

    def choice(self, problem: ConvProblem, layer: Layer, numbers: Numbers, tile: None) -> Choice:
        """Vectors where there are enough channels; a fused function reads a table, element by element."""
        channels = problem.out.shape[0]
        scalar = problem.epilogue.table or channels < self.fewest
        width, vectors = (1, None) if scalar else (min(channels, self.lanes), self.vectors)
        form = Stored(problem.weight_bits, CHUNK if self.lanes > 1 else 1)
        packed = {**pack(params(problem, form), layer), **rounding.constants(problem, numbers)}
        overlaps = problem.out.shape[0] % width or problem.out.shape[2] % _pixels(problem, width)
        build = partial(depthwise_kernel, problem, width, vectors, form)
        if problem.pieces > 1:  # which run in any order
            return Choice(self.NAME, tile, build, packed, in_place=False)
        return Choice(self.NAME, tile, build, packed, in_place=not overlaps, lead=_lead(problem))


def taps(problem: ConvProblem) -> int:
    """Weights of the layer."""
    return prod(problem.kernel) * problem.out.shape[0]


def params(problem: ConvProblem, form: Stored) -> list[Param]:
    """The layer's constants: see the module. Weights are stored in the given form."""
    count = problem.out.shape[0]
    return [
        form.param(1, taps(problem), lambda layer: layer.weight[:, 0].transpose(1, 2, 0), 1),
        Param("bias", count, "int32", lambda layer: layer.folded_bias(problem.x).astype(np.int32), align=4),
        Param("zero", 1, "int8", lambda layer: np.array([layer.zero], np.int8), align=1),
    ]


def _lead(problem: ConvProblem) -> int:
    """See `Choice`: rows are in the ring before a result that reads them is written."""
    step, span, top = problem.stride[0], Ring(problem).span, problem.padding[0]
    return lead(problem, lambda row: row * step + max(span, step) - top)


def _pixels(problem: ConvProblem, lanes: int) -> int:
    """Neighbouring pixels that share loaded weights: two where they are vectors."""
    return min(2, problem.out.shape[2]) if lanes > 1 else 1


def depthwise_kernel(problem: ConvProblem, lanes: int, vectors: rounding.Vectors | None, form: Stored) -> Kernel:
    """A task is some rows; whoever asks for one piece gets the whole layer."""
    ring = Ring(problem)
    with prim_func("depthwise") as finish:
        tasks = _Body(problem, lanes, ring, vectors, form).emit()
    return Kernel(finish(), tasks, _ring_bytes(ring) + _wide_bytes(problem, form))


def _ring_bytes(ring: Ring) -> int:
    return ceil(ring.size / 16) * 16


def _wide_bytes(problem: ConvProblem, form: Stored) -> int:
    return 0 if form.size == 8 else form.room(taps(problem))


class _Body:
    """The function while it is being built."""

    def __init__(
        self, problem: ConvProblem, lanes: int, ring: Ring, vectors: rounding.Vectors | None, stored: Stored
    ) -> None:
        self.problem, self.lanes, self.ring, self.stored = problem, lanes, ring, stored
        form = problem.epilogue
        self.task = I.arg("task", I.int32())
        self.x = argument("x", problem.x.extent, "int8", 1)
        self.weights, self.bias, self.zero = declare(params(problem, stored)).values()
        self.numbers = rounding.declare(problem, vectors)
        self.residual = argument("residual", form.residual.extent, form.residual.dtype, 1) if form.residual else None
        self.out = argument("out", problem.out.extent, problem.out.dtype, 1)
        wide = _wide_bytes(problem, stored)
        self.scratch = argument("scratch", _ring_bytes(ring) + wide if wide else ring.size, "int8", 1)
        if wide:
            place = I.Bind(T.address_of(self.scratch[_ring_bytes(ring)]))
            self.packed, self.weights = self.weights, I.decl_buffer((wide,), "int8", data=place, align=1)

    def emit(self) -> int:
        """Row by row, pixel by pixel, all channels. Returns how many tasks there are."""
        problem, lanes = self.problem, self.lanes
        if problem.weight_bits < 8:
            self.stored.widen(self.packed, 0, taps(problem), self._store_weights)
        count, height, width = problem.out.shape
        rows, tasks = ((0, height), 1) if problem.pieces == 1 else dealt(self.task, height, 1, problem.pieces)[::2]
        slots = I.alloc_buffer((problem.kernel[0],), "int32")
        with I.serial(*rows) as row:
            fill(self.ring, row, rows[0], self._pad, self._copy)
            for tap in range(problem.kernel[0]):
                I.buffer_store(slots, self.ring.slot(row, tap), [tap])
            pixels = _pixels(problem, lanes)
            with I.serial(0, ceil(width / pixels)) as group, I.serial(0, ceil(count / lanes)) as block:
                pixel = I.Bind(I.min(group * pixels, width - pixels) if width % pixels else group * pixels)
                channel = I.Bind(I.min(block * lanes, count - lanes) if count % lanes else block * lanes)
                self._vectors(row, pixel, channel, slots, pixels)
        return tasks

    def _store_weights(self, at: Any, part: Any) -> None:
        lanes = self.stored.lanes
        put(self.weights, at, part if lanes > 1 else T.cast(part, "int8"), lanes)

    def _pad(self, at: Any, count: int) -> None:
        with I.serial(0, count) as i:
            I.buffer_store(self.scratch, self.zero[0], [at + i])

    def _copy(self, at: Any, source: Any, count: int) -> None:
        with I.serial(0, count) as i:
            I.buffer_store(self.scratch, self.x[source + i], [at + i])

    def _vectors(self, row: Any, pixel: Any, channel: Any, slots: Any, pixels: int) -> None:
        """One vector of channels of neighbouring pixels."""
        problem, count = self.problem, self.problem.out.shape[0]
        totals = [self._wide(self.bias, channel)] * pixels
        for y in range(problem.kernel[0]):
            for x in range(problem.kernel[1]):
                weight = I.Bind(self._wide(self.weights, (y * problem.kernel[1] + x) * count + channel))
                at = slots[y] + pixel * self.ring.pixel + (x * problem.dilation[1]) * count + channel
                for p in range(pixels):
                    totals[p] = I.Bind(totals[p] + self._wide(self.scratch, at + p * self.ring.pixel) * weight)
        for p, total in enumerate(totals):
            self._store(row, pixel + p, channel, total)

    def _store(self, row: Any, pixel: Any, channel: Any, total: Any) -> None:
        problem, other = self.problem, None
        if self.residual is not None and problem.epilogue.residual is not None:
            _, down, across = problem.epilogue.residual.strides
            other = self._wide(self.residual, row * down + pixel * across + channel)
        _, down, across = problem.out.strides
        at = row * down + pixel * across + channel
        stored = self.numbers.elements(total, channel, self.lanes, other)
        I.buffer_store(self.out, stored, [I.ramp(at, 1, self.lanes) if self.lanes > 1 else at])

    def _wide(self, buffer: Any, at: Any) -> Any:
        if self.lanes == 1:
            return T.cast(buffer[at], "int32")
        return T.cast(load(buffer, at, self.lanes), f"int32x{self.lanes}")
