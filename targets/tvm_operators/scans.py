"""Running sums, products and extremes, one element after the other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from torch import fx
from tvm import tirx

from fxquant.targets.tvm_api import I, IRBuilder
from fxquant.targets.tvm_operators.indexing import loops
from fxquant.targets.tvm_operators.operator import Converter, Importer, cast, fake, relax, settings, shape, type_of


def scan(step: Callable[[Any, Any], Any]) -> Converter:
    """`op(x, dim)`: each result is `step` of the one before it and its own element."""

    def convert(node: fx.Node, importer: Importer) -> Any:
        source, dim = settings(node)[:2]
        sizes, dtype = shape(node), fake(node).dtype
        axis = dim % max(len(sizes), 1)
        with IRBuilder() as builder:
            with I.prim_func(s_tir=True):
                I.func_name("scan")
                I.func_attr({"tirx.noalias": True})
                x = I.arg("x", I.buffer(sizes, type_of(fake(source).dtype)))
                result = I.arg("result", I.buffer(sizes, type_of(dtype)))

                def start(at: list[Any]) -> None:
                    at = [*at[:axis], tirx.const(0, "int32"), *at[axis:]] if sizes else []
                    I.buffer_store(result, cast(x[tuple(at)], dtype), at)

                def follow(at: list[Any]) -> None:
                    here = [*at[:axis], at[axis] + 1, *at[axis + 1 :]]
                    I.buffer_store(result, step(result[tuple(at)], cast(x[tuple(here)], dtype)), here)

                loops([n for a, n in enumerate(sizes) if a != axis], start)
                if sizes:
                    loops([n - (a == axis) for a, n in enumerate(sizes)], follow)
        name = importer.block_builder.add_func(builder.get(), "scan")
        kind = relax.TensorType(sizes, type_of(dtype))
        return importer.block_builder.emit(relax.call_tir(name, [importer.env[source]], kind))

    return convert


OPERATORS: dict[str, Converter] = {
    "cumsum.default": scan(lambda a, b: a + b),
    "cumprod.default": scan(lambda a, b: a * b),
}
