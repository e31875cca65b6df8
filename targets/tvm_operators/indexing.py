"""Reading and writing by index. An index below zero counts from the end, and none leaves its tensor.

Torch raises where an index is out of range; compiled code reads the nearest element then, and writes nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from itertools import zip_longest
from typing import Any

from torch import fx
from tvm import te, tirx

from fxquant.targets.tvm_api import I, IRBuilder
from fxquant.targets.tvm_operators.operator import (
    Converter,
    Importer,
    cast,
    choose,
    emit,
    fake,
    number,
    read,
    relax,
    settings,
    shape,
    type_of,
)


def wrapped(index: Any, size: int) -> Any:
    """An index that counts from the front, held within 0 ... size - 1."""
    whole = index.astype("int64")
    front = choose(whole < 0, whole + size, whole)
    return tirx.max(tirx.min(front, size - 1), 0)


def select(node: fx.Node, importer: Importer) -> Any:
    """`index_select(x, dim, index)` and `gather(x, dim, index)`."""
    x, dim, index = settings(node)[:3]
    rank = len(shape(x))
    axis = dim % max(rank, 1)

    def function(source: Any, places: Any) -> Any:
        def element(*at: Any) -> Any:
            if not rank:
                return source()
            whole = "gather" in str(node.target)
            found = places(*at) if whole else places(*(at[axis : axis + 1] if len(places.shape) else ()))
            return source(*at[:axis], wrapped(found, int(source.shape[axis])), *at[axis + 1 :])

        return te.compute(shape(node), element, name="select")

    return importer.block_builder.emit_te(function, importer.env[x], importer.env[index])


def embedding(node: fx.Node, importer: Importer) -> Any:
    """`embedding(weight, indices)`."""
    weight, index = settings(node)[:2]

    def function(table: Any, places: Any) -> Any:
        rows = int(table.shape[0])
        return te.compute(shape(node), lambda *at: table(wrapped(places(*at[:-1]), rows), at[-1]), name="embedding")

    return emit(importer, function, weight, index)


def advanced(indices: Sequence[fx.Node | None], rank: int) -> tuple[list[int], int, int]:
    """Which axes are indexed, where the broadcast shape of the indices stands in the result, and its rank."""
    axes = [a for a, index in enumerate(indices) if index is not None]
    together = axes == list(range(axes[0], axes[-1] + 1))
    return axes, axes[0] if together else 0, max(len(shape(n)) for n in indices if n is not None)


def source_index(
    at: Sequence[Any], axes: list[int], start: int, width: int, places: Sequence[Any], rank: int
) -> list[Any]:
    """The element of the indexed tensor that the result's element `at` comes from."""
    block, rest = at[start : start + width], iter([*at[:start], *at[start + width :]])
    own = dict(zip(axes, places, strict=True))
    return [read(own[a], block) if a in own else next(rest) for a in range(rank)]


def index(node: fx.Node, importer: Importer) -> Any:
    """`x[i, :, j]`: index tensors are broadcast to each other."""
    x, indices = settings(node)
    rank = len(shape(x))
    axes, start, width = advanced(indices, rank)

    def function(source: Any, *places: Any) -> Any:
        def element(*at: Any) -> Any:
            found = source_index(at, axes, start, width, places, rank)
            return source(*(wrapped(i, int(source.shape[a])) if a in axes else i for a, i in enumerate(found)))

        return te.compute(shape(node), element, name="index")

    return emit(importer, function, x, *(i for i in indices if i is not None))


def slice_scatter(node: fx.Node, importer: Importer) -> Any:
    """`slice_scatter(x, source, dim, start, end, step)`."""
    x, source, dim, start, end, step = settings(node)
    axis = dim % len(shape(x))
    first, last, step = slice(start, end, step).indices(shape(x)[axis])

    def function(base: Any, part: Any) -> Any:
        def element(*at: Any) -> Any:
            behind = at[axis] - first
            place = tirx.max(tirx.min(tirx.floordiv(behind, step), int(part.shape[axis]) - 1), 0)
            hit = tirx.all(behind >= 0, at[axis] < last, tirx.EQ(tirx.floormod(behind, step), 0))
            return choose(hit, part(*at[:axis], place, *at[axis + 1 :]), base(*at))

        return te.compute(shape(node), element, name="slice_scatter")

    return importer.block_builder.emit_te(function, importer.env[x], importer.env[source])


class Writer:
    """A function of loops that copies its first operand to its result, and then writes into it element by element."""

    def __init__(self, node: fx.Node, operands: Sequence[fx.Node]) -> None:
        self.node, self.operands = node, operands

    def emit(self, importer: Importer, body: Callable[..., None]) -> Any:
        """`body(result, operands...)` writes what is not copied."""
        kinds = [(shape(n), type_of(fake(n).dtype)) for n in (*self.operands, self.node)]
        with IRBuilder() as builder:
            with I.prim_func(s_tir=True):
                I.func_name("write")
                I.func_attr({"tirx.noalias": True})
                buffers = [I.arg(f"b{i}", I.buffer(s, t)) for i, (s, t) in enumerate(kinds)]
                *given, result = buffers
                loops(kinds[0][0], lambda at: I.buffer_store(result, given[0][tuple(at)], at))
                body(result, *given)
        name = importer.block_builder.add_func(builder.get(), "write")
        arguments = [importer.env[n] for n in self.operands]
        found = relax.call_tir(name, arguments, relax.TensorType(shape(self.node), kinds[-1][1]))
        return importer.block_builder.emit(found)


def loops(sizes: Sequence[int], body: Callable[[list[Any]], None], at: Sequence[Any] = ()) -> None:
    """`body(index)` for every index, in order."""
    if len(at) == len(sizes):
        body(list(at))
        return
    with I.serial(0, int(sizes[len(at)])) as i:
        loops(sizes, body, [*at, i])


def _combined(how: str, old: Any, new: Any) -> Any:
    return {"": new, "sum": old + new, "prod": old * new}[how]


def scatter(node: fx.Node, importer: Importer) -> Any:
    """`scatter(x, dim, index, source or value)` and `scatter_add`, in the order of memory."""
    x, dim, index_, source, *_ = settings(node)
    how = "sum" if "add" in str(node.target) else ""
    axis = dim % max(len(shape(x)), 1)
    tensors = [x, index_, *([source] if isinstance(source, fx.Node) else [])]

    def body(result: Any, _base: Any, places: Any, *parts: Any) -> None:
        def write(at: list[Any]) -> None:
            size = shape(x)[axis]
            found = places[tuple(at)]
            new = cast(parts[0][tuple(at)], fake(x).dtype) if parts else number(source, fake(x).dtype)
            with I.If(tirx.all(found >= 0, found < size)):
                with I.Then():
                    there = [*at[:axis], found, *at[axis + 1 :]]
                    I.buffer_store(result, _combined(how, result[tuple(there)], new), there)

        loops(shape(index_), write)

    return Writer(node, tensors).emit(importer, body)


def index_put(node: fx.Node, importer: Importer) -> Any:
    """`x[i, :, j] = values`, or `+=`, in the order of the values."""
    x, indices, values, *rest = settings(node)
    how = "sum" if rest and rest[0] else ""
    rank = len(shape(x))
    axes, start, width = advanced(indices, rank)
    named = [i for i in indices if i is not None]
    block = _broadcast([shape(i) for i in named])
    kept = [n for a, n in enumerate(shape(x)) if a not in axes]
    sizes = [*kept[:start], *block, *kept[start:]]

    def body(result: Any, _base: Any, *others: Any) -> None:
        *places, parts = others

        def write(at: list[Any]) -> None:
            found = source_index(at, axes, start, width, [_Reader(p) for p in places], rank)
            bounds = []
            for axis in axes:
                size = shape(x)[axis]
                found[axis] = choose(found[axis] < 0, found[axis] + size, found[axis])
                bounds += [found[axis] >= 0, found[axis] < size]
            with I.If(tirx.all(*bounds)):
                with I.Then():
                    I.buffer_store(result, _combined(how, result[tuple(found)], read(_Reader(parts), at)), found)

        loops(sizes, write)

    return Writer(node, [x, *named, values]).emit(importer, body)


class _Reader:
    """A buffer that is read as a te tensor is."""

    def __init__(self, buffer: Any) -> None:
        self.buffer, self.shape = buffer, buffer.shape

    def __call__(self, *at: Any) -> Any:
        return self.buffer[tuple(at)]


def _broadcast(sizes: Sequence[Sequence[int]]) -> list[int]:
    columns = zip_longest(*(reversed(s) for s in sizes), fillvalue=1)
    return [next((n for n in column if n != 1), 1) for column in columns][::-1]


OPERATORS: dict[str, Converter] = {
    "index_select.default": select,
    "gather.default": select,
    "embedding.default": embedding,
    "index.Tensor": index,
    "_unsafe_index.Tensor": index,
    "slice_scatter.default": slice_scatter,
    "scatter.src": scatter,
    "scatter.value": scatter,
    "scatter_add.default": scatter,
    "index_put.default": index_put,
    "_unsafe_index_put.default": index_put,
}
