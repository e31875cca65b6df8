"""The epilogue of every x86 kernel: from s32 accumulators in registers to stored elements, exactly.

    sum = (acc * M << shift) + ((r << rs) * Mr) + C          the residual term only with a fused `add`
    q   = clamp(sum >> 32, low, high)                        in the domain of memory: value + bias
    out = table[q]                                           only with a fused 256-entry function

C = 2^31 + ((zero_point + out.bias) << 32) - (((residual zero point + residual.bias) << rs) * Mr) is one s64 that the
kernel reads at run time, like every other number here: layers of equal shape share code, whatever their weights.

The products are s32 x s32 -> s64 (`vpmuldq`, even and odd lanes apart), so nothing is lost. With `shift > 0` the
product is clamped to +-2^(61 - shift) before it is shifted: a sum that large is beyond every output type by a factor of
at least 2^10, and the residual term is held under 2^59, so the clamp cannot change a stored element.

Constant arguments, in this order: `multiplier` s32[channels + 1], `scalars` s64[5 * 8], and with a table `table`
u8[16 * 32]. The narrow form computes the same where 32 bits hold the first product, with the constants of `narrow.py`.
The raw form (s32 accumulators stored as they are) has no constants, the real form (float32) those of `real.py`.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

import numpy as np

from fxquant.targets.kernels.contract.epilogue import (
    RESIDUAL_LIMIT,
    Epilogue,
    Numbers,
    Raw,
    Real,
    Requantization,
)
from fxquant.targets.kernels.contract.kernel import TensorSpec
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.epilogue import narrow, real
from fxquant.targets.kernels.epilogue.narrow import NarrowArguments
from fxquant.targets.kernels.epilogue.real import RealArguments
from fxquant.targets.kernels.parts import params
from fxquant.targets.kernels.words.tir import bits, load, pick, splat
from fxquant.targets.kernels.words.x86 import Isa, even_products, high_halves, sign_extend
from fxquant.targets.tvm_api import I, T, intrinsic, tirx

ROW = 8  # s64 elements per row of `scalars`: one 512-bit vector, so that every instruction set shares the layout
OFFSET, LOW, HIGH, RESIDUAL_MULTIPLIER, RESIDUAL_SHIFT = range(5)
GROUP = 32  # bytes that are clamped, looked up and stored together


@dataclass(frozen=True)
class EpilogueArguments:
    """The buffers of an epilogue inside a function being built."""

    isa: Isa
    form: Epilogue
    multiplier: Any = None
    scalars: Any = None
    table: Any = None
    narrow: NarrowArguments | None = None
    real: RealArguments | None = None

    def row(self, index: int, dtype: str = "int64") -> Any:
        """Row `index` of `scalars` as one vector of `dtype`."""
        vector = load(self.scalars, index * ROW, self.isa.lanes // 2)
        return vector if dtype == "int64" else bits(vector, f"{dtype}x{self.isa.lanes}")


@dataclass(frozen=True)
class Row:
    """Consecutive channels of one pixel: accumulators (u32 vectors), where they start, and how many are stored.

    `channel` indexes the per-channel constants; `out` and `residual` are flat element offsets in those buffers.
    """

    accumulators: Sequence[Any]
    channel: Any
    out: Any
    residual: Any = None
    valid: int = field(default=1 << 30)


def declare(form: Epilogue, isa: Isa, channels: int, task: Any) -> EpilogueArguments:
    """Declare the constant arguments; the kernel may index channels 0 ... channels - 1."""
    given = params.declare(_params(form, channels))
    if isinstance(form, Real):
        return EpilogueArguments(isa, form, real=RealArguments.begin(isa.lanes, task, form.peaks, **given))
    narrowed = NarrowArguments(isa.lanes, channels, given["multiplier"]) if form.narrow else None
    return EpilogueArguments(isa, form, **given, narrow=narrowed)


def pack_epilogue(form: Epilogue, numbers: Numbers, out: TensorSpec, channels: int) -> dict[str, Any]:
    """The constants that `declare` asked for, by name and in order. Raises ValueError for numbers out of range."""
    return params.pack(_params(form, channels), numbers, out)


def _params(form: Epilogue, channels: int) -> list[params.Param]:
    """The constant arguments, whose values are of the numbers and of what they are stored in."""
    if isinstance(form, Raw):
        return []
    if isinstance(form, Real):
        return real.params(channels)
    count = 3 * channels if form.narrow else channels + 1
    found = [
        params.Param("multiplier", count, "int32", partial(_multiplier, form, channels)),
        params.Param("scalars", 5 * ROW, "int64", partial(_scalars, form)),
    ]
    return [*found, params.Param("table", 16 * GROUP, "uint8", _table)] if form.table else found


def _multiplier(form: Epilogue, channels: int, numbers: Requantization, out: TensorSpec) -> np.ndarray[Any, Any]:
    multiplier = np.zeros(channels + 1, np.int32)
    given = np.broadcast_to(np.asarray(numbers.multiplier, np.int64), (out.shape[0],))
    if (given < 0).any() or (given >= 1 << 31).any():
        raise ValueError("epilogue: multipliers must be in [0, 2^31)")
    multiplier[: out.shape[0]] = given
    return narrow.packed(multiplier[:-1], numbers.zero_point + out.bias) if form.narrow else multiplier


def start_sums(layer: Layer, problem: ConvProblem, channels: int, scale: int = 1) -> np.ndarray[Any, Any]:
    """What the sums of so many channels begin with, modulo 2^32: the folded bias, times `scale`; zeros behind it.

    Of wide sums first the lower halves and then the upper ones, see `Layer.start`.
    """
    words = layer.start(problem).astype(np.int64).reshape(-1, problem.out.shape[0])
    start = np.zeros((len(words), channels), np.uint32)
    start[:, : problem.out.shape[0]] = (words * scale & 0xFFFFFFFF).astype(np.uint32)
    return start.reshape(-1)


def pack_for_all(form: Epilogue, numbers: Requantization, out: TensorSpec) -> dict[str, Any]:
    """The constants of an epilogue that `declare` gave GROUP channels, with one multiplier for all that is stored."""
    return pack_epilogue(form, numbers, TensorSpec(out.dtype, (GROUP, 1, 1), (1, GROUP, GROUP), out.bias), GROUP)


def _scalars(form: Epilogue, numbers: Requantization, out: TensorSpec) -> np.ndarray[Any, Any]:
    offset = (1 << 31) + ((numbers.zero_point + out.bias) << 32)
    if form.whole and not out.is_whole(numbers.low, numbers.high):
        raise ValueError(f"epilogue: [{numbers.low}, {numbers.high}] is not all of {out}")
    if form.residual is not None:
        unit = numbers.residual_multiplier << numbers.residual_shift
        if not (0 <= numbers.residual_multiplier < 1 << 31 and 0 <= numbers.residual_shift <= 22):
            raise ValueError("epilogue: the residual's multiplier must be in [0, 2^31) and its shift in [0, 22]")
        if 2 * np.iinfo(form.residual.dtype).max * unit + (1 << 41) > RESIDUAL_LIMIT:
            raise ValueError("epilogue: the residual's multiplier is too large to be fused; add it in an op of its own")
        offset -= (numbers.residual_zero_point + form.residual.bias) * unit
    scalars = np.zeros((5, ROW), np.int64)
    scalars[OFFSET] = offset
    scalars[RESIDUAL_MULTIPLIER] = numbers.residual_multiplier
    clamp_type = np.dtype(np.uint8 if out.dtype == "uint8" else np.int32)
    for row, bound in ((LOW, numbers.low), (HIGH, numbers.high)):
        info = np.iinfo(out.dtype)
        if not info.min <= bound + out.bias <= info.max:
            raise ValueError(f"epilogue: the bound {bound} with bias {out.bias} does not fit {out.dtype}")
        scalars[row].view(clamp_type)[:] = bound + out.bias
    scalars[RESIDUAL_SHIFT].view(np.int32)[:] = numbers.residual_shift
    return scalars.reshape(-1)


def _table(numbers: Requantization, out: TensorSpec) -> np.ndarray[Any, Any]:
    """Sixteen 16-byte tables, each twice; see `_look_up` for why they hold differences."""
    if out.dtype != "uint8":
        raise ValueError(f"epilogue: a table looks up what memory holds as uint8, not {out.dtype}")
    if numbers.table is None or numbers.table.shape != (256,):
        raise ValueError("epilogue: a fused table needs 256 entries")
    parts = numbers.table.astype(np.uint8).reshape(2, 8, 16)
    delta = parts.copy()
    delta[:, 1:] ^= parts[:, :-1]
    return np.repeat(delta.reshape(16, 1, 16), 2, axis=1).reshape(-1)


def store_rows(arguments: EpilogueArguments, out: Any, rows: Sequence[Row], residual: Any = None) -> None:
    """Emit the epilogue of `rows` and their stores into the flat buffer `out`."""
    lanes = arguments.isa.lanes
    items = [(row, j) for row in rows for j in range(len(row.accumulators)) if j * lanes < row.valid]
    if arguments.real is not None:
        _store_real(arguments.real, out, items, residual)
        return
    if str(out.dtype) != "uint8":
        for row, j in items:
            value = _wide_element(arguments, row, j, residual, str(out.dtype))
            count = min(lanes, row.valid - j * lanes)
            _store(out, row.out + j * lanes, value, 0, count, lanes)
        return
    size = GROUP // lanes
    for first in range(0, len(items), size):
        group = items[first : first + size]
        scaled = [I.Bind(_scaled(arguments, row, j, residual)) for row, j in group]
        packed = I.Bind(_to_bytes(arguments, [scaled[i % len(scaled)] for i in range(size)]))
        _store_group(out, group, packed, lanes)


def _store_real(real: RealArguments, out: Any, items: Sequence[tuple[Row, int]], residual: Any) -> None:
    lanes, seen = real.lanes, []
    for row, j in items:
        count = min(lanes, row.valid - j * lanes)
        other = None if residual is None else _load_some(residual, row.residual + j * lanes, count, lanes)
        value = real.element(row.accumulators[j], row.channel + j * lanes, other)
        _store(out, row.out + j * lanes, value, 0, count, lanes)
        seen.append((value, count))
    real.note(seen)


def _store_group(out: Any, group: Sequence[tuple[Row, int]], packed: Any, lanes: int) -> None:
    """Store 32 packed bytes, channels that are neighbours in memory together."""
    start = 0
    while start < len(group):
        row, j = group[start]
        stop = start + 1
        while stop < len(group) and group[stop][0] is row:
            stop += 1
        count = min((stop - start) * lanes, row.valid - j * lanes)
        _store(out, row.out + j * lanes, packed, start * lanes, count, GROUP)
        start = stop


def _store(out: Any, index: Any, vector: Any, start: int, count: int, total: int) -> None:
    piece = vector if count == total else pick(vector, start, count)
    I.buffer_store(out, piece, [I.ramp(index, 1, count) if count > 1 else index])


def _wide_element(arguments: EpilogueArguments, row: Row, j: int, residual: Any, dtype: str) -> Any:
    """One vector for an output that is not u8: raw accumulators, or values clamped in s32."""
    if isinstance(arguments.form, Raw):
        return I.Bind(bits(row.accumulators[j], f"int32x{arguments.isa.lanes}"))
    value = _scaled(arguments, row, j, residual)
    value = T.min(T.max(value, arguments.row(LOW, "int32")), arguments.row(HIGH, "int32"))
    return I.Bind(T.cast(value, f"{dtype}x{arguments.isa.lanes}"))


def _scaled(arguments: EpilogueArguments, row: Row, j: int, residual: Any) -> Any:
    """sum >> 32 as s32 lanes: see the module's formula."""
    isa, form = arguments.isa, arguments.form
    if arguments.narrow is not None:
        return arguments.narrow.scaled(row.accumulators[j], row.channel + j * isa.lanes)
    lanes = isa.lanes
    pairs = f"int64x{lanes // 2}"
    half = splat(32, "int64", lanes // 2)
    acc = I.Bind(bits(row.accumulators[j], pairs))
    channel = row.channel + j * lanes
    sums = []
    other = None
    if form.residual is not None:
        count = min(lanes, row.valid - j * lanes)
        widened = T.cast(_load_some(residual, row.residual + j * lanes, count, lanes), f"int32x{lanes}")
        other = I.Bind(bits(T.shift_left(widened, arguments.row(RESIDUAL_SHIFT, "int32")), pairs))
    for odd in (0, 1):
        value = T.shift_right(acc, half) if odd else sign_extend(acc, lanes)
        # One element further on, the odd multipliers stand in the even lanes.
        m = bits(load(arguments.multiplier, channel + odd, lanes), pairs)
        product = value * sign_extend(m, lanes)
        if form.shift:
            limit = 1 << (61 - form.shift)
            product = T.max(T.min(product, splat(limit, "int64", lanes // 2)), splat(-limit, "int64", lanes // 2))
            product = T.shift_left(product, splat(form.shift, "int64", lanes // 2))
        total = product + arguments.row(OFFSET)
        if other is not None:
            right = T.shift_right(other, half) if odd else other
            total = total + even_products(right, arguments.row(RESIDUAL_MULTIPLIER), lanes)
        sums.append(I.Bind(total))
    return high_halves(sums[0], sums[1], lanes)


def _load_some(buffer: Any, index: Any, count: int, lanes: int) -> Any:
    """`count` elements in a vector of `lanes`, never reading past them."""
    if count == lanes:
        return load(buffer, index, lanes)
    if count == 1:
        return T.broadcast(buffer[index], lanes)
    pieces = [I.Bind(load(buffer, index, count))] * -(-lanes // count)
    return tirx.Shuffle(pieces, [tirx.const(i, "int32") for i in range(lanes)])


def _to_bytes(arguments: EpilogueArguments, vectors: Sequence[Any]) -> Any:
    """Clamp s32 vectors to [low, high] and pack them into 32 u8, in order; then the table, if there is one."""
    if arguments.isa.lanes == 8:
        words = [
            intrinsic("llvm.x86.avx2.packssdw", "int16x16", vectors[i], vectors[i + 1]) for i in (0, 2)
        ]  # saturates to s16, then to u8: a clamp that costs nothing
        mixed = bits(intrinsic("llvm.x86.avx2.packuswb", "uint8x32", *words), "int32x8")
        order = [tirx.const(i, "int32") for i in (0, 4, 1, 5, 2, 6, 3, 7)]
        packed = bits(tirx.Shuffle([mixed], order), "uint8x32")
    else:
        zero, top = splat(0, "int32", arguments.isa.lanes), splat(255, "int32", arguments.isa.lanes)
        parts = [T.cast(T.min(T.max(v, zero), top), f"uint8x{arguments.isa.lanes}") for v in vectors]
        packed = tirx.Shuffle(parts, [tirx.const(i, "int32") for i in range(GROUP)])
    if not arguments.form.whole:
        low, high = (bits(load(arguments.scalars, row * ROW, GROUP // 8), "uint8x32") for row in (LOW, HIGH))
        packed = T.min(T.max(packed, low), high)
    return _look_up(arguments.table, I.Bind(packed)) if arguments.form.table else packed


def _look_up(table: Any, index: Any) -> Any:
    """table[index] for 32 bytes, with sixteen 16-byte lookups.

    `vpshufb` gives 0 where bit 7 of the index is set and else uses its low four bits. Indices 0 ... 127 are lowered by
    16 before each step, so a lane takes part in steps 0 ... index >> 4 and then turns negative; with the tables stored
    as differences (xor) to the one before, the xor of all steps is the entry. Indices 128 ... 255 go the same way with
    bit 7 flipped; each half contributes 0 to the lanes of the other.
    """
    result = None
    for side in (0, 1):
        current = I.Bind(index if side == 0 else T.bitwise_xor(index, splat(128, "uint8", GROUP)))
        for step in range(8):
            part = load(table, (side * 8 + step) * GROUP, GROUP)
            found = intrinsic("llvm.x86.avx2.pshuf.b", "uint8x32", part, current)
            result = I.Bind(found if result is None else T.bitwise_xor(result, found))
            if step < 7:
                current = I.Bind(intrinsic("llvm.ssub.sat", "uint8x32", current, splat(16, "uint8", GROUP)))
    return result
