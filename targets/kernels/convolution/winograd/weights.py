"""Weights of a Winograd convolution: stored as they are, and expanded to what the kernel reads when a model is loaded.

    stored   s8  [pairs of C][9 taps][channels][2], or of fewer bits, in that order (`fxquant.packing`)
    packed   s16 [blocks / resident][plane][resident][pairs of C][channels of the block][2]

Packed weights are 8 times (m = 4) or 3.6 times (m = 2) the size of stored ones. What is stored does not depend on the
tile, so that layers with the same weight share it. An odd C is filled up with zeros, and so are fewer output channels
than a vector has lanes. `packed_weights` says what the kernel reads, `expand_kernel` computes the same.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from fxquant.targets.kernels.contract.kernel import Kernel
from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.convolution.winograd.math import Array, transform_weights, weight_transform
from fxquant.targets.kernels.convolution.winograd.plan import WinogradPlan, WinogradTile, winograd_plan
from fxquant.targets.kernels.parts.weights import Stored
from fxquant.targets.kernels.words.pieces import overlapped, starts
from fxquant.targets.kernels.words.tir import argument, load, prim_func, splat
from fxquant.targets.kernels.words.x86 import Isa
from fxquant.targets.tvm_api import I, T, tirx

TAPS = 9


def stored_weights(weight: Array, isa: Isa) -> Array:
    """int8 (Co, C, 3, 3) in the order in which `expand_kernel` reads them."""
    count, channels = weight.shape[:2]
    roomy = np.zeros((max(count, isa.lanes), channels + channels % 2, TAPS), np.int8)
    roomy[:count, :channels] = weight.reshape(count, channels, TAPS)
    split = roomy.reshape(len(roomy), -1, 2, TAPS)
    return np.ascontiguousarray(split.transpose(1, 3, 0, 2)).reshape(-1)


def packed_weights(problem: ConvProblem, isa: Isa, tile: WinogradTile, weight: Array) -> Array:
    """int8 (Co, C, 3, 3) as the convolution kernel of `tile` reads them, s16."""
    plan = winograd_plan(problem, isa, tile)
    count, channels = weight.shape[:2]
    moved = np.zeros((max(count, plan.width), 2 * plan.pairs, plan.planes), np.int16)
    moved[:count, :channels] = transform_weights(tile.size, weight).reshape(count, channels, -1)
    blocks = np.stack([moved[first : first + plan.width] for first in starts(count, plan.width)])
    split = blocks.reshape(-1, tile.resident, plan.width, plan.pairs, 2, plan.planes)
    return np.ascontiguousarray(split.transpose(0, 5, 1, 3, 2, 4)).reshape(-1)


def packed_size(plan: WinogradPlan) -> int:
    """Elements of the packed weights."""
    return plan.block_count * plan.planes * plan.pairs * plan.width * 2


def expand_key(problem: ConvProblem, tile: WinogradTile) -> tuple[int, ...]:
    """What `expand_kernel` depends on."""
    return problem.x.shape[0], problem.out.shape[0], tile.size, tile.vectors, tile.resident


def expand_kernel(problem: ConvProblem, isa: Isa, tile: WinogradTile, size: int = 8) -> Kernel:
    """`void f(int32 task, stored, packed)`: one channel block per task; `size` are the bits of a stored weight."""
    plan = winograd_plan(problem, isa, tile)
    count, step = problem.out.shape[0], 2 * isa.lanes
    row = 2 * max(count, isa.lanes)
    with prim_func("expand") as finish:
        task: Any = I.arg("task", I.int32())
        stored = _Source(plan.pairs * TAPS * row, size)
        packed = argument("packed", packed_size(plan), "int16")
        first = I.Bind(overlapped(task * plan.width, count, plan.width) * 2)
        group, resident = T.floordiv(task, tile.resident), T.floormod(task, tile.resident)
        panel = I.Bind((group * plan.planes * tile.resident + resident) * plan.pairs)
        with I.serial(0, plan.pairs) as pair, I.serial(0, tile.vectors) as vector:
            source = I.Bind(pair * (TAPS * row) + first + vector * step)
            taps = [I.Bind(T.cast(stored.neighbours(source + t * row, step), f"int16x{step}")) for t in range(TAPS)]
            for plane, value in enumerate(_transform(tile.size, taps, step)):
                line = panel + plane * (tile.resident * plan.pairs) + pair
                I.buffer_store(packed, value, [I.ramp(line * (2 * plan.width) + vector * step, 1, step)])
    return Kernel(finish(), plan.block_count)


class _Source:
    """Stored weights, of which neighbours are read from an even place on."""

    def __init__(self, elements: int, size: int) -> None:
        self.stored = Stored(size)
        # Two bits each: the last element may be asked for with those behind it.
        slack = 1 if size == 2 else 0
        kind = "int8" if size == 8 else "uint8"
        self.buffer = argument("stored", self.stored.bytes(elements) + slack, kind, 1)

    def neighbours(self, at: Any, count: int) -> Any:
        """So many, as s8."""
        parts = self.stored.count
        if parts == 1:
            return load(self.buffer, at, count)
        first = I.Bind(T.floordiv(at, parts))
        if parts == 2:
            return self._in_order(first, count)
        whole, after = self._in_order(first, count), self._in_order(first + 1, count)
        # From the middle of a byte: the last two are in the byte behind those that were read first.
        order = [*range(2, count), *(count + n - parts for n in range(count, count + 2))]
        moved = tirx.Shuffle([whole, after], [tirx.const(n, "int32") for n in order])
        return tirx.Select(T.floormod(at, parts) == 0, whole, moved)

    def _in_order(self, first: Any, count: int) -> Any:
        """So many of whole bytes, from byte `first` on."""
        parts, lanes = self.stored.count, count // self.stored.count
        found = Stored(self.stored.size, lanes).parts(I.Bind(load(self.buffer, first, lanes)))
        return tirx.Shuffle(found, [tirx.const(n % parts * lanes + n // parts, "int32") for n in range(count)])


def _transform(size: int, taps: list[Any], lanes: int) -> list[Any]:
    """Nine taps to (size + 2)^2 planes, both dimensions, every value fitting s16."""

    def times(value: Any, factor: int) -> Any:
        return value * splat(factor, "int16", lanes)

    columns = [[I.Bind(v) for v in weight_transform(size, taps[x::3], times)] for x in range(3)]
    edge = size + 2
    return [v for y in range(edge) for v in weight_transform(size, [columns[x][y] for x in range(3)], times)]
