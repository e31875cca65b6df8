"""The words that all kernels are written in: functions, their buffers, and vectors of any instruction set."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from fxquant.targets.tvm_api import I, IRBuilder, T, tirx


@contextmanager
def prim_func(name: str) -> Iterator[Callable[[], Any]]:
    """Open a PrimFunc called `name` whose buffers do not alias; the value yielded returns it after the block."""
    with IRBuilder() as builder:
        with I.prim_func(s_tir=True):
            I.func_name(name)
            I.func_attr({"tirx.noalias": True, "global_symbol": name})
            yield lambda: builder.get()


def argument(name: str, elements: int, dtype: str, align: int = 64) -> Any:
    """A flat buffer parameter of the function being built; `align` is in bytes."""
    return I.arg(name, I.buffer((elements,), dtype, align=align))


def splat(value: int, dtype: str, lanes: int) -> Any:
    """A vector of `lanes` equal constants."""
    return T.broadcast(tirx.const(value, dtype), lanes)


def bits(value: Any, dtype: str) -> Any:
    """The same bits seen as another type."""
    return T.reinterpret(value, dtype=dtype)


def load(buffer: Any, index: Any, lanes: int) -> Any:
    """`lanes` consecutive elements of a flat buffer."""
    return buffer.vload([index], dtype=f"{buffer.dtype}x{lanes}")


def prefetch(buffer: Any, index: Any) -> None:
    """Fetch the cache line of `index`, which may lie outside of the buffer, to be read soon."""
    read, keep, data = (tirx.const(flag, "int32") for flag in (0, 3, 1))
    I.evaluate(tirx.call_intrin("void", "tirx.prefetch", T.address_of(buffer[index]), read, keep, data))


def pick(vector: Any, start: int, count: int) -> Any:
    """`count` consecutive lanes of `vector` from `start` (a scalar when `count` is 1)."""
    return tirx.Shuffle([vector], [tirx.const(start + i, "int32") for i in range(count)])


def get(buffer: Any, at: Any, lanes: int) -> Any:
    """`lanes` elements as a vector, one as a scalar."""
    return load(buffer, at, lanes) if lanes > 1 else buffer[at]


def put(buffer: Any, at: Any, value: Any, lanes: int) -> None:
    """Store what `get` loads."""
    I.buffer_store(buffer, value, [I.ramp(at, 1, lanes) if lanes > 1 else at])


def spread(value: Any, lanes: int) -> Any:
    """A scalar in all lanes; itself for one."""
    return T.broadcast(value, lanes) if lanes > 1 else value


def joined(parts: list[Any], lanes: int) -> Any:
    """The vector of `lanes` that scalars or shorter vectors make up; what is alone as it is."""
    return parts[0] if len(parts) == 1 else tirx.Shuffle(parts, places(0, lanes))


def places(first: int, count: int) -> list[Any]:
    """Indices of neighbours, for a shuffle."""
    return [tirx.const(first + i, "int32") for i in range(count)]
