"""Matrix products of two activations: out = (a - za) @ (b - zb) in s32, or rounded by the epilogue.

The function is `void f(int32 task, a, b, zeros, [multiplier, scalars, [table]], out, [scratch])`, with s32 zeros (za,
zb). A task is some rows of one matrix of the batch. It widens its part of `a`, and all of `b`, to s16 in its scratch
memory, zero points taken off, and multiplies pairs (`vpmaddwd`, `vpdpwssd`): exact for 8-bit operands, since a
difference of two bytes has 9 bits, and for an `a` of 16 bits about zero, as far as 32 bits hold the sums.

    scratch   b as s16 [block of columns][pair of depths][column][2], then a as s16 [row][depth, padded to pairs]

The last rows and columns overlap those before. A matrix that is smaller than a tile, or of other 16-bit elements,
goes through plain loops.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from math import ceil, prod
from typing import Any

from fxquant.targets.kernels.contract.epilogue import Epilogue, Raw, Requantization
from fxquant.targets.kernels.contract.kernel import Choice, Kernel, TensorSpec
from fxquant.targets.kernels.contract.operations import Matmul
from fxquant.targets.kernels.contract.template import Maker
from fxquant.targets.kernels.elementwise.map import Operand
from fxquant.targets.kernels.epilogue.x86 import GROUP, Row, declare, pack_for_all, store_rows
from fxquant.targets.kernels.words.numbers import dropped
from fxquant.targets.kernels.words.pieces import offset, position
from fxquant.targets.kernels.words.tir import argument, bits, load, prim_func
from fxquant.targets.kernels.words.x86 import Isa, broadcast_pair, dot_pairs
from fxquant.targets.tvm_api import I, T, tirx

ROWS, VECTORS = 3, 2  # the register tile
TASKS = 8  # so that a few threads share a small batch
LEAST_ROWS = 24  # of a task: widening b has to pay
ALIGNMENT = 64
RAW = Raw()
BYTES, SQUARE = 16, 8  # widened at a time, and columns that are turned over together


@dataclass(frozen=True)
class _Plan:
    """Sizes of one problem; `pieces` tasks share the rows of a matrix."""

    batch: tuple[int, ...]
    rows: int
    columns: int
    depth: int
    width: int

    @property
    def pairs(self) -> int:
        return ceil(self.depth / 2)

    @property
    def blocks(self) -> int:
        return ceil(self.columns / self.width)

    @property
    def pieces(self) -> int:
        """At least a tile of rows each, since LEAST_ROWS is more than that."""
        return max(1, min(ceil(TASKS / prod(self.batch)), self.rows // LEAST_ROWS))

    @property
    def most_rows(self) -> int:
        """Rows of the largest task."""
        return ceil(self.rows / self.pieces)

    @property
    def right_size(self) -> int:
        """s16 elements of the widened `b`."""
        return self.blocks * self.pairs * self.width * 2


def least(isa: Isa) -> tuple[int, int]:
    """Rows and columns that a tile has."""
    return ROWS, VECTORS * isa.lanes


def is_tiled(shape: Sequence[int], dtypes: set[str], isa: Isa | None) -> bool:
    """Whether register tiles compute a result of this shape from operands of these types, and may round it."""
    if isa is None or not dtypes <= {"uint8", "int8"}:
        return False
    return all(size >= few for size, few in zip(shape[-2:], least(isa), strict=True))


def tiled(isa: Isa) -> Maker:
    """The template of register tiles, which round as well."""

    def make(problem: Matmul, numbers: Requantization) -> Choice | None:
        a, b, out, form = problem.a, problem.b, problem.out, problem.epilogue
        fits = problem.about_zero and not problem.drop and a.dtype == "int16"
        if not is_tiled(out.shape, {b.dtype} if fits else {a.dtype, b.dtype}, isa) or out.strides[-1] != 1:
            return None
        constants = pack_for_all(form, numbers, out)
        return Choice("matmul", None, partial(matmul_kernel, a, b, out, isa, form), constants)

    return make


def plain(problem: Matmul, _numbers: Requantization) -> Choice | None:
    """The template of plain loops, which leave accumulators."""
    if not isinstance(problem.epilogue, Raw):
        return None
    return Choice("matmul", None, partial(_plain, problem.a, problem.b, problem.out, problem.drop), {})


def matmul_kernel(a: TensorSpec, b: TensorSpec, out: TensorSpec, isa: Isa | None, form: Epilogue = RAW) -> Kernel:
    """The product of the last two axes, batched over the others, which `a` and `b` have like `out`.

    An `a` of 16 bits in register tiles has the zero point 0, and sums that 32 bits hold.

    Raises ValueError for an epilogue that rounds where nothing `is_tiled`.
    """
    *batch, rows, columns = out.shape
    if isa is None or not is_tiled(out.shape, {a.dtype} - {"int16"} | {b.dtype}, isa) or out.strides[-1] != 1:
        if not isinstance(form, Raw):
            raise ValueError(f"matmul: nothing rounds {out} without register tiles")
        return _plain(a, b, out)
    plan = _Plan(tuple(batch), rows, columns, a.shape[-1], VECTORS * isa.lanes)
    size = 2 * (plan.right_size + plan.most_rows * plan.pairs * 2)
    scratch = ceil(size / ALIGNMENT) * ALIGNMENT
    with prim_func("matmul") as finish:
        _Body(a, b, out, isa, plan, scratch, form).emit()
    return Kernel(finish(), prod(batch) * plan.pieces, scratch)


class _Body:
    """The function body while it is being built; `scratch` is in bytes."""

    def __init__(
        self, a: TensorSpec, b: TensorSpec, out: TensorSpec, isa: Isa, plan: _Plan, scratch: int, form: Epilogue
    ) -> None:
        self.isa, self.plan, self.spec = isa, plan, out
        self.task: Any = I.arg("task", I.int32())
        self.left, self.right = Operand("a", a), Operand("b", b)
        self.zeros = argument("zeros", 2, "int32", 4)
        self.epilogue = declare(form, isa, GROUP, self.task)
        self.out = argument("out", out.extent, out.dtype, 1)
        self.scratch = argument("scratch", scratch // 2, "int16")

    def emit(self) -> None:
        """Widen, then all tiles: blocks of columns outside, so that theirs of `b` stay in the first-level cache."""
        plan = self.plan
        matrix = position(self.task // plan.pieces, plan.batch)
        piece = self.task % plan.pieces
        first = I.Bind(piece * plan.rows // plan.pieces)
        last = I.Bind((piece + 1) * plan.rows // plan.pieces)
        self._widen_right(matrix)
        self._widen_left(matrix, first, last)
        tiles = I.Bind((last - first + (ROWS - 1)) // ROWS)
        with I.serial(0, plan.blocks) as block, I.serial(0, tiles) as tile:
            column = I.Bind(T.min(block * plan.width, plan.columns - plan.width))
            row = I.Bind(T.min(first + tile * ROWS, last - ROWS))
            self._tile(matrix, block, column, row, I.Bind(row - first))

    def _widen_right(self, matrix: Sequence[Any]) -> None:
        plan = self.plan
        down, across = self.right.spec.strides[-2:]
        with I.serial(0, plan.blocks) as block:
            column = I.Bind(T.min(block * plan.width, plan.columns - plan.width))
            start = I.Bind(block * plan.pairs * (plan.width * 2))
            base = I.Bind(offset(matrix, self.right.spec.strides[:-2]) + column * across)
            if across == 1:
                with I.serial(0, plan.pairs) as pair:
                    self._interleave(base, down, pair, I.Bind(start + pair * (plan.width * 2)))
            elif down == 1 and plan.depth % 2 == 0 and plan.depth >= BYTES:
                with I.serial(0, ceil(plan.depth / BYTES)) as chunk, I.serial(0, plan.width // SQUARE) as group:
                    depth = I.Bind(T.min(chunk * BYTES, plan.depth - BYTES))
                    at = I.Bind(start + depth * plan.width + group * BYTES)
                    self._transpose(I.Bind(base + group * SQUARE * across + depth), across, at)
            else:
                with I.serial(0, plan.pairs) as pair, I.serial(0, plan.width) as lane:
                    for half in (0, 1):
                        value = self.right(*matrix, self._depth(pair * 2 + half), column + lane) - self.zeros[1]
                        at = start + pair * (plan.width * 2) + lane * 2 + half
                        I.buffer_store(self.scratch, T.cast(value, "int16"), [at])

    def _wide(self, at: Any) -> Any:
        """Neighbouring bytes of `b` as s16 differences to the zero point."""
        zero = T.broadcast(T.cast(self.zeros[1] + self.right.spec.bias, "int16"), BYTES)
        return I.Bind(T.cast(load(self.right.buffer, at, BYTES), f"int16x{BYTES}") - zero)

    def _interleave(self, base: Any, down: int, pair: Any, at: Any) -> None:
        """Two rows whose columns lie side by side: a pair for each column."""
        order = [tirx.const(i // 2 + i % 2 * BYTES, "int32") for i in range(2 * BYTES)]
        for first in range(0, self.plan.width, BYTES):
            rows = [self._wide(base + self._depth(pair * 2 + half) * down + first) for half in (0, 1)]
            I.buffer_store(self.scratch, tirx.Shuffle(rows, order), [I.ramp(at + 2 * first, 1, 2 * BYTES)])

    def _transpose(self, base: Any, across: int, at: Any) -> None:
        """Columns whose depths lie side by side: a square of pairs is turned over, 1, 2 and 4 places at a time."""
        square = [I.Bind(bits(self._wide(base + c * across), f"int32x{SQUARE}")) for c in range(SQUARE)]
        for step in (1, 2, 4):
            lanes = range(SQUARE)
            low = [tirx.const(i + (SQUARE - step if i & step else 0), "int32") for i in lanes]
            high = [tirx.const(i + (SQUARE if i & step else step), "int32") for i in lanes]
            for i in (i for i in lanes if not i & step):
                both = [square[i], square[i + step]]
                square[i], square[i + step] = (I.Bind(tirx.Shuffle(both, order)) for order in (low, high))
        for pair, vector in enumerate(square):
            place = at + pair * (2 * self.plan.width)
            I.buffer_store(self.scratch, bits(vector, f"int16x{BYTES}"), [I.ramp(place, 1, BYTES)])

    def _widen_left(self, matrix: Sequence[Any], first: Any, last: Any) -> None:
        plan = self.plan
        with I.serial(0, last - first) as row:
            at = I.Bind(plan.right_size + row * (plan.pairs * 2))
            with I.serial(0, plan.depth) as k:
                value = self.left(*matrix, first + row, k) - self.zeros[0]
                I.buffer_store(self.scratch, T.cast(value, "int16"), [at + k])
            if plan.depth % 2:
                I.buffer_store(self.scratch, tirx.const(0, "int16"), [at + plan.depth])

    def _depth(self, depth: Any) -> Any:
        """A row of `b`; the one after the last depth meets a zero of `a`, so any will do."""
        return T.min(depth, self.plan.depth - 1) if self.plan.depth % 2 else depth

    def _tile(self, matrix: Sequence[Any], block: Any, column: Any, row: Any, left: Any) -> None:
        plan, lanes = self.plan, self.isa.lanes
        with I.sblock("tile"):
            I.reads()
            I.writes()
            acc = I.sblock_alloc_buffer((ROWS * plan.width,), "uint32", scope="local")
            slots = [[I.ramp((r * VECTORS + v) * lanes, 1, lanes) for v in range(VECTORS)] for r in range(ROWS)]
            for slot in (slot for row_slots in slots for slot in row_slots):
                I.buffer_store(acc, T.broadcast(tirx.const(0, "uint32"), lanes), [slot])
            with I.serial(0, plan.pairs) as pair:
                at = (block * plan.pairs + pair) * (plan.width * 2)
                right = [I.Bind(load(self.scratch, at + v * lanes * 2, lanes * 2)) for v in range(VECTORS)]
                for r in range(ROWS):
                    at = plan.right_size + ((left + r) * plan.pairs + pair) * 2
                    pairs = I.Bind(broadcast_pair(self.scratch, at, lanes))
                    for v in range(VECTORS):
                        I.buffer_store(acc, dot_pairs(self.isa, acc[slots[r][v]], pairs, right[v]), [slots[r][v]])
            found = []
            for r in range(ROWS):
                base = offset([*matrix, row + r], self.spec.strides[:-1]) + column
                # All columns have one multiplier.
                found.append(Row([acc[slots[r][v]] for v in range(VECTORS)], 0, base, valid=plan.width))
            store_rows(self.epilogue, self.out, found)


def _plain(a: TensorSpec, b: TensorSpec, out: TensorSpec, drop: int = 0) -> Kernel:
    """One task per row of the result; sums that lose bits have 64."""
    *batch, rows, columns = out.shape
    with prim_func("matmul") as finish:
        task: Any = I.arg("task", I.int32())
        left, right = Operand("a", a), Operand("b", b)
        zeros = argument("zeros", 2, "int32", 4)
        target = argument("out", out.extent, out.dtype, 1)
        kind = "int64" if drop else "int32"
        acc = I.alloc_buffer((1,), kind)
        index = position(task, [*batch, rows])
        with I.serial(0, columns) as j:
            I.buffer_store(acc, tirx.const(0, kind), [0])
            with I.serial(0, a.shape[-1]) as k:
                factors = left(*index, k) - zeros[0], right(*index[:-1], k, j) - zeros[1]
                I.buffer_store(acc, acc[0] + T.cast(factors[0], kind) * T.cast(factors[1], kind), [0])
            I.buffer_store(target, dropped(acc[0], drop), [offset([*index, j], out.strides)])
    return Kernel(finish(), prod(batch) * rows)
