"""Reductions in which NaN is the extreme of all numbers, as it is to torch; sorting by counting ranks."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import fx
from tvm import te, tirx

from fxquant.targets.tvm_operators.operator import (
    Converter,
    Importer,
    cast,
    choose,
    emit,
    fake,
    is_nan,
    settings,
    shape,
)


def lowest(dtype: str) -> Any:
    """What every number is at least."""
    return tirx.const(float("-inf"), dtype) if dtype.startswith("float") else tirx.min_value(dtype)


def highest(dtype: str) -> Any:
    """What every number is at most."""
    return tirx.const(float("inf"), dtype) if dtype.startswith("float") else tirx.max_value(dtype)


def beats(a: Any, b: Any, largest: bool) -> Any:
    """Whether `a` is further out than `b`; NaN is the largest of all, and the smallest to a search for that."""
    further = a > b if largest else a < b
    return tirx.any(further, tirx.all(is_nan(a), tirx.Not(is_nan(b))))


def equal(a: Any, b: Any) -> Any:
    """Whether both take the same place."""
    return tirx.any(tirx.EQ(a, b), tirx.all(is_nan(a), is_nan(b)))


def extreme(largest: bool) -> Any:
    """te's reduction to the largest or smallest value."""
    return te.comm_reducer(
        lambda a, b: choose(beats(b, a, largest), b, a), lambda t: (lowest if largest else highest)(str(t)), name="best"
    )


def extreme_place(largest: bool) -> Any:
    """te's reduction of (place, value) pairs: the first place of the extreme value."""

    def better(a: Any, b: Any) -> Any:
        wins = tirx.any(beats(b[1], a[1], largest), tirx.all(equal(b[1], a[1]), b[0] < a[0]))
        return choose(wins, b[0], a[0]), choose(wins, b[1], a[1])

    def start(place: Any, value: Any) -> Any:
        return tirx.max_value(str(place)), (lowest if largest else highest)(str(value))

    return te.comm_reducer(better, start, name="best_place")


def axes_of(dims: Any, rank: int) -> list[int]:
    """Axes from what torch takes: None and [] are all of them."""
    given = [dims] if isinstance(dims, int) else list(dims or range(rank))
    return sorted(d % max(rank, 1) for d in given) if rank else []


def over(x: Any, axes: Sequence[int], index: Sequence[Any], inner: Sequence[Any], keeps: bool) -> Any:
    """The element of `x` at the outer index and the reduction's own."""
    outer, own = list(index), dict(zip(axes, inner, strict=True))
    if keeps:
        outer = [i for a, i in enumerate(outer) if a not in own]
    rest = iter(outer)
    return x(*(own[a] if a in own else next(rest) for a in range(len(x.shape))))


def reduction(combine: Callable[[], Any], prepare: Callable[[Any], Any] | None = None) -> Converter:
    """`op(x, dims, keepdim)`."""

    def convert(node: fx.Node, importer: Importer) -> Any:
        given = [*settings(node), None, False]
        source, dims = given[0], given[1]
        keeps = bool(given[2])
        axes = axes_of(None if isinstance(dims, bool) else dims, len(shape(source)))
        kind = fake(node).dtype

        def function(x: Any) -> Any:
            inner = [te.reduce_axis((0, int(x.shape[a])), name=f"r{a}") for a in axes]
            reducer = combine()

            def element(*index: Any) -> Any:
                value = over(x, axes, index, inner, keeps)
                value = cast(value, kind) if prepare is None else prepare(value)
                return reducer(value, axis=inner) if inner else value

            return te.compute(shape(node), element, name="reduction")

        return emit(importer, function, source)

    return convert


def place_of_extreme(largest: bool, values_too: bool) -> Converter:
    """`argmax(x, dim, keepdim)`, or both values and places of `max(x, dim, keepdim)`."""

    def convert(node: fx.Node, importer: Importer) -> Any:
        source, dim, keeps = settings(node)
        axes = axes_of(dim, len(shape(source)))

        def function(x: Any) -> Any:
            inner = [te.reduce_axis((0, int(x.shape[a])), name=f"r{a}") for a in axes]
            reducer = extreme_place(largest)

            def element(*index: Any) -> Any:
                place: Any = tirx.const(0, "int64")
                for axis, own in zip(axes, inner, strict=True):
                    place = place * int(x.shape[axis]) + own.astype("int64")
                value = over(x, axes, index, inner, keeps)
                return reducer((place, value), axis=inner) if inner else (place, value)

            places, values = te.compute(shape(node), element, name="best")
            return [values, places] if values_too else [places, values]

        found = emit(importer, function, source)
        return [found[0], found[1]] if values_too else found[0]

    return convert


def ranked(node: fx.Node, importer: Importer) -> Any:
    """`topk(x, k, dim, largest, sorted)` and `sort(x, dim, descending)`: values and places, equal ones in order.

    An element's rank is how many others go before it; the element of rank r goes to place r.
    """
    source, *rest = settings(node)
    count_, dim, largest = (rest[0], rest[1], rest[2]) if "topk" in str(node.target) else (None, *_sorting(node, rest))
    sizes = shape(source)
    axis = dim % max(len(sizes), 1)
    length = sizes[axis] if sizes else 1

    def function(x: Any) -> Any:
        def at(index: Sequence[Any], place: Any) -> Any:
            return x(*(place if a == axis else i for a, i in enumerate(index))) if sizes else x()

        other = te.reduce_axis((0, length), name="other")

        def before(*index: Any) -> Any:
            own, its = at(index, index[axis] if sizes else 0), at(index, other)
            mine = index[axis] if sizes else tirx.const(0, "int32")
            first = tirx.any(_before(its, own, largest), tirx.all(equal(its, own), other < mine))
            return te.sum(first.astype("int32"), axis=other)

        ranks = te.compute(sizes, before, name="ranks")
        element = te.reduce_axis((0, length), name="element")

        def holder(*index: Any) -> Any:
            there = [element if a == axis else i for a, i in enumerate(index)] if sizes else []
            hit = tirx.EQ(ranks(*there), index[axis].astype("int32") if sizes else tirx.const(0, "int32"))
            return te.sum(choose(hit, element.astype("int64"), tirx.const(0, "int64")), axis=element)

        wanted = [n if a != axis else (length if count_ is None else count_) for a, n in enumerate(sizes)]
        places = te.compute(wanted, holder, name="places")
        # What is read from memory is kept inside, for all that can be proven of it.
        values = te.compute(wanted, lambda *i: at(i, tirx.max(tirx.min(places(*i), length - 1), 0)), name="values")
        return [values, places]

    found = emit(importer, function, source)
    return [found[0], found[1]]


def _before(a: Any, b: Any, largest: bool) -> Any:
    """NaN is larger than all numbers, and so it comes first or last."""
    if largest:
        return beats(a, b, largest=True)
    return tirx.any(a < b, tirx.all(is_nan(b), tirx.Not(is_nan(a))))


def _sorting(node: fx.Node, rest: list[Any]) -> tuple[int, bool]:
    return (rest[1], rest[2]) if "stable" in str(node.target) else (rest[0], rest[1])


def _any() -> Any:
    return te.comm_reducer(lambda a, b: tirx.any(a, b), lambda t: tirx.const(False, "bool"), name="any_of")


def matmul(node: fx.Node, importer: Importer) -> Any:
    """`mm(a, b)` and `bmm(a, b)`, of integers too."""
    a, b = settings(node)

    def function(x: Any, y: Any) -> Any:
        inner = te.reduce_axis((0, int(x.shape[-1])), name="k")
        return te.compute(
            shape(node), lambda *i: te.sum(x(*i[:-1], inner) * y(*i[:-2], inner, i[-1]), axis=inner), name="matmul"
        )

    return importer.block_builder.emit_te(function, importer.env[a], importer.env[b])


def _product() -> Any:
    return te.comm_reducer(lambda a, b: a * b, lambda t: tirx.const(1, str(t)), name="product")


_ANY = reduction(_any, lambda value: cast(value, torch.bool))
_PRODUCT = reduction(_product)

OPERATORS: dict[str, Converter] = {
    "amax.default": reduction(lambda: extreme(True)),
    "amin.default": reduction(lambda: extreme(False)),
    "max.default": reduction(lambda: extreme(True)),
    "min.default": reduction(lambda: extreme(False)),
    "any.default": _ANY,
    "any.dim": _ANY,
    "any.dims": _ANY,
    "prod.default": _PRODUCT,
    "prod.dim_int": _PRODUCT,
    "argmax.default": place_of_extreme(True, False),
    "argmin.default": place_of_extreme(False, False),
    "max.dim": place_of_extreme(True, True),
    "min.dim": place_of_extreme(False, True),
    "topk.default": ranked,
    "sort.default": ranked,
    "sort.stable": ranked,
    "mm.default": matmul,
    "bmm.default": matmul,
}
