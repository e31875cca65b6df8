"""Bilinear interpolation of bytes, rounded: two neighbours per axis with weights of the same sum, one axis at a time.

    void f(int32 task, x, columns, rows, column weights, row weights, zero, [multiplier, scalars, [table]],
           [residual], out, scratch)

    line(y)[x, c] = sum over b of column weight[x, b] * (in[y, columns[x, b], c] - zero)        two of them in scratch
    acc[y, x, c]  = sum over a of row weight[y, a] * line(rows[y, a])[x, c]

A line of the operand is stretched once for all rows of the result that see it: where an image grows, most of the work
is the second step, which runs over whole vectors whatever the number of channels. A task is a run of rows.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from math import ceil
from typing import Any

import numpy as np

from fxquant.targets.kernels.contract.epilogue import Requantization
from fxquant.targets.kernels.contract.kernel import Choice, Kernel
from fxquant.targets.kernels.contract.operations import Resample
from fxquant.targets.kernels.contract.template import Maker
from fxquant.targets.kernels.epilogue.x86 import GROUP, Row, declare, pack_for_all, store_rows
from fxquant.targets.kernels.parts import params
from fxquant.targets.kernels.words.pieces import load_some
from fxquant.targets.kernels.words.tir import argument, bits, load, pick, prim_func
from fxquant.targets.kernels.words.x86 import Isa
from fxquant.targets.tvm_api import I, T

Array = np.ndarray[Any, Any]

# Rows of a task: so many that the lines which it shares with its neighbours do not matter.
TASK_ROWS = 8


@dataclass(frozen=True)
class Stretch:
    """Where the result lies in the operand, for rows and columns: `indices` and `weights` (out, 2); and its rounding.

    Positions never decrease from row to row. `zero` is the operand's zero point in the value domain, `numbers` have one
    multiplier.
    """

    indices: tuple[Array, Array]
    weights: tuple[Array, Array]
    zero: int
    numbers: Requantization


def lines(isa: Isa) -> Maker:
    """The template."""

    def make(problem: Resample, numbers: Stretch) -> Choice | None:
        return Choice("resample", None, partial(resample_kernel, problem, isa), resample_constants(problem, numbers))

    return make


def resample_constants(problem: Resample, numbers: Stretch) -> dict[str, Array]:
    """The constant arguments by name and in order."""
    return {
        **params.pack(_params(problem), numbers),
        **pack_for_all(problem.epilogue, numbers.numbers, problem.out),
    }


def _params(problem: Resample) -> list[params.Param]:
    (_, rows, columns) = problem.out.shape
    found = [
        ("columns", columns, lambda numbers: numbers.indices[1]),
        ("rows", rows, lambda numbers: numbers.indices[0]),
        ("column_weights", columns, lambda numbers: numbers.weights[1]),
        ("row_weights", rows, lambda numbers: numbers.weights[0]),
    ]
    zero = params.Param("zero", 1, "int32", lambda numbers: np.array([numbers.zero + problem.x.bias], np.int32), 4)
    return [*(params.Param(name, 2 * n, "int32", _whole(values)) for name, n, values in found), zero]


def _whole(values: Callable[[Stretch], Array]) -> Callable[[Stretch], Array]:
    return lambda numbers: values(numbers).astype(np.int32)


def resample_kernel(problem: Resample, isa: Isa) -> Kernel:
    """The kernel; it depends on shapes, strides and flags only."""
    tasks = ceil(problem.out.shape[1] / TASK_ROWS)
    with prim_func("resample") as finish:
        _Body(problem, isa).emit(tasks)
    return Kernel(finish(), tasks, 2 * _line_elements(problem) * 4)


def _line_elements(problem: Resample) -> int:
    # The last vector of the last pixel may read on.
    return (ceil(problem.length / GROUP) + 1) * GROUP


class _Body:
    """The function while it is being built."""

    def __init__(self, problem: Resample, isa: Isa) -> None:
        self.problem, self.isa = problem, isa
        form = problem.epilogue
        self.task: Any = I.arg("task", I.int32())
        self.x = argument("x", problem.x.extent, "uint8", 1)
        given = params.declare(_params(problem))
        self.columns, self.rows, self.column_weights, self.row_weights, self.zero = given.values()
        self.epilogue = declare(form, isa, GROUP, self.task)
        self.residual = argument("residual", form.residual.extent, form.residual.dtype, 1) if form.residual else None
        self.out = argument("out", problem.out.extent, problem.out.dtype, 1)
        self.lines = argument("scratch", 2 * _line_elements(problem), "int32")

    def emit(self, tasks: int) -> None:
        """Row by row; `newest` is the last line that was stretched."""
        rows = self.problem.out.shape[1]
        newest = I.alloc_buffer((1,), "int32")
        I.buffer_store(newest, -1, [0])
        with I.serial(self.task * rows // tasks, (self.task + 1) * rows // tasks) as row:
            for side in (0, 1):
                line = I.Bind(self.rows[2 * row + side])
                with I.If(line > newest[0]):
                    with I.Then():
                        self._stretch(line)
                        I.buffer_store(newest, line, [0])
            self._blend(row)

    def _start(self, line: Any) -> Any:
        """Where a line is: neighbours never share a place."""
        return T.bitwise_and(line, 1) * _line_elements(self.problem)

    def _stretch(self, line: Any) -> None:
        count, _, columns = self.problem.out.shape
        _, down, across = self.problem.x.strides
        with I.serial(0, columns) as column:
            at = [I.Bind(line * down + self.columns[2 * column + side] * across) for side in (0, 1)]
            weights = [I.Bind(self.column_weights[2 * column + side]) for side in (0, 1)]
            folded = I.Bind((weights[0] + weights[1]) * self.zero[0])
            target = I.Bind(self._start(line) + column * count)

            def piece(first: Any, size: int) -> None:
                lanes = self.isa.lanes
                total: Any = -T.broadcast(folded, lanes)
                for place, weight in zip(at, weights, strict=True):
                    values = T.cast(load_some(self.x, place + first, size, lanes), f"int32x{lanes}")
                    total = total + values * T.broadcast(weight, lanes)
                kept = total if size == lanes else pick(I.Bind(total), 0, size)
                I.buffer_store(self.lines, kept, [I.ramp(target + first, 1, size) if size > 1 else target + first])

            _pieces(count, self.isa.lanes, piece)

    def _blend(self, row: Any) -> None:
        count, _, columns = self.problem.out.shape
        starts = [I.Bind(self._start(self.rows[2 * row + side])) for side in (0, 1)]
        weights = [I.Bind(self.row_weights[2 * row + side]) for side in (0, 1)]
        residual = self.problem.epilogue.residual or self.problem.out

        both = list(zip(starts, weights, strict=True))

        def piece(pixel: Any, first: Any, size: int) -> None:
            lanes, sums = self.isa.lanes, []
            for j in range(0, size, lanes):
                place = pixel * count + first + j
                values = [load(self.lines, start + place, lanes) * T.broadcast(w, lanes) for start, w in both]
                sums.append(I.Bind(bits(values[0] + values[1], f"uint32x{lanes}")))
            at, beside = (
                row * view.strides[1] + pixel * view.strides[2] + first for view in (self.problem.out, residual)
            )
            store_rows(self.epilogue, self.out, [Row(sums, 0, at, beside, size)], self.residual)

        if self.problem.is_dense:
            _pieces(self.problem.length, GROUP, lambda first, size: piece(0, first, size))
            return
        with I.serial(0, columns) as pixel:
            _pieces(count, GROUP, lambda first, size: piece(pixel, first, size))


def _pieces(length: int, size: int, visit: Callable[[Any, int], None]) -> None:
    """Call visit(start, elements) in a loop over a run; the last piece overlaps the one before."""
    if length <= size:
        visit(0, length)
        return
    with I.serial(0, ceil(length / size)) as index:
        start = index * size
        visit(I.Bind(I.min(start, length - size)) if length % size else start, size)
