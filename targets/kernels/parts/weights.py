"""Weights as memory holds them: how many bits each has, and when they become bytes.

    load   when a model is loaded: the runtime keeps bytes, the file does not. Kernels know nothing of it (`widened`).
    row    once for all pixels of a row, or all rows, into scratch memory: kernels read bytes there (`Stored.widen`)
    use    where they meet their operand, in registers (`Stored.parts`)

Kernels count elements; where an element is in memory is said here and in `fxquant.packing` alone.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fxquant.packing import pack, packed_bytes
from fxquant.targets.kernels.contract.kernel import Choice, Expansion, Kernel
from fxquant.targets.kernels.parts.params import Param
from fxquant.targets.kernels.words.tir import argument, bits, get, prim_func, put, spread
from fxquant.targets.tvm_api import I, T, tirx

Array = np.ndarray[Any, Any]

# Bytes of a chunk that is widened when a model is loaded.
LANES = 16


@dataclass(frozen=True)
class Stored:
    """Weights of `size` bits in chunks of `lanes` bytes, see `fxquant.packing`."""

    size: int
    lanes: int = 1

    @property
    def count(self) -> int:
        """Elements of a byte."""
        return 8 // self.size

    @property
    def chunk(self) -> int:
        """Elements of a chunk."""
        return self.count * self.lanes

    @property
    def scale(self) -> int:
        """The bits by which an element at the upper end of its byte is too large."""
        return 8 - self.size

    def bytes(self, elements: int) -> int:
        """Bytes of so many elements, in whole chunks."""
        return packed_bytes(elements, self.size, self.lanes)

    def room(self, elements: int) -> int:
        """Bytes of the same once they are widened."""
        return self.bytes(elements) * self.count

    def param(self, rows: int, elements: int, values: Callable[..., Array], align: int) -> Param:
        """The argument, for rows of so many elements, each of whole chunks; `values` makes (rows, elements) or flat."""
        if self.size == 8:
            return Param("weights", rows * elements, "int8", values, align=align)

        def packed(*given: Any) -> Array:
            return pack(np.ascontiguousarray(values(*given)).reshape(rows, elements), self.size, self.lanes)

        return Param("weights", rows * self.bytes(elements), "uint8", packed, align=align)

    def parts(self, chunk: Any) -> list[Any]:
        """The vectors of s8 neighbours that a loaded chunk (u8) holds; s32 numbers where it has one lane."""
        return [self.part(chunk, number) for number in range(self.count)]

    def part(self, chunk: Any, number: Any) -> Any:
        """One of them; with one lane its number may be computed."""
        if self.lanes == 1:
            # Unsigned, for C99 leaves the shift of a negative number undefined.
            moved = I.shift_left(T.cast(chunk, "uint32"), T.cast(number * self.size + 24, "uint32"))
            return I.shift_right(bits(moved, "int32"), tirx.const(32 - self.size, "int32"))
        kind = f"int8x{self.lanes}"
        left, right = (spread(tirx.const(n, "int8"), self.lanes) for n in (number * self.size, self.scale))
        signed = bits(chunk, kind)
        return I.shift_right(I.shift_left(signed, left) if number else signed, right)

    def element(self, buffer: Any, at: Any) -> Any:
        """One element of chunks of one lane, as s32."""
        if self.size == 8:
            return T.cast(buffer[at], "int32")
        return self.part(buffer[I.shift_right(at, tirx.const(self.count.bit_length() - 1, "int32"))], at % self.count)

    def widen(self, source: Any, first: Any, elements: int, store: Callable[[Any, Any], None]) -> None:
        """Emit a loop over the chunks of so many elements, from byte `first` on.

        `store(at, value)` gets `lanes` neighbours and the number of the first one; the last chunk may have too many.
        """
        with I.serial(0, self.bytes(elements) // self.lanes) as chunk:
            loaded = I.Bind(get(source, first + chunk * self.lanes, self.lanes))
            for number, part in enumerate(self.parts(loaded)):
                store(chunk * self.chunk + number * self.lanes, part)


def _vector(dtype: str, lanes: int) -> str:
    return f"{dtype}x{lanes}" if lanes > 1 else dtype


def widened(choice: Choice, size: int) -> Choice:
    """The same kernel, its weights stored in `size` bits and widened when a model is loaded; as it is where it sees to
    that itself."""
    weights = choice.constants["weights"]
    if size == 8 or weights.dtype == np.uint8:
        return choice
    constants = {**choice.constants, "weights": pack(weights.reshape(-1), size, LANES)}
    return replace(
        choice, constants=constants, expansions={"weights": expansion(weights.size, str(weights.dtype), size)}
    )


def expansion(elements: int, dtype: str, size: int, bias: int = 0, lanes: int = LANES) -> Expansion:
    """What makes so many numbers of stored ones when a model is loaded; `bias` is what memory adds to them."""
    stored = Stored(size, lanes)
    key = ("widen", stored, elements, dtype, bias)
    room = stored.room(elements) * np.dtype(dtype).itemsize
    return Expansion(key, lambda: _widen_kernel(stored, elements, dtype, bias), room)


def _widen_kernel(stored: Stored, elements: int, dtype: str, bias: int) -> Kernel:
    """`void f(int32 task, stored, expanded)`: one task."""
    lanes = stored.lanes
    with prim_func("widen") as finish:
        I.arg("task", I.int32())
        source = argument("stored", stored.bytes(elements), "uint8", 1)
        target = argument("expanded", stored.room(elements), dtype)

        def store(at: Any, part: Any) -> None:
            value = T.cast(part, _vector("int16", lanes)) + spread(tirx.const(bias, "int16"), lanes)
            put(target, at, T.cast(value, _vector(dtype, lanes)), lanes)

        stored.widen(source, 0, elements, store)
    return Kernel(finish(), 1)
