"""The kernel that tells a runtime of an index which a table lacks. The look-up itself clamps, whoever listens."""

from __future__ import annotations

from typing import Any

from fxquant.targets.kernels.contract.kernel import Kernel, TensorSpec
from fxquant.targets.kernels.elementwise.map import Operand, nest
from fxquant.targets.kernels.words.tir import argument, prim_func
from fxquant.targets.tvm_api import I, T, tirx


def index_check_kernel(index: TensorSpec, rows: int) -> Kernel:
    """`void f(int32 task, index, int64 *found)`: one of the indices below 0 or from `rows` on, if there is one.

    No such index is 0. Threads that compute different samples may each write theirs: any of them will do. The usual
    pass over the indices has no branch, so that LLVM makes vectors of it.
    """
    with prim_func("index_check") as finish:
        task: Any = I.arg("task", I.int32())
        indices = Operand("index", index)
        found = argument("found", 1, "int64", 8)
        axes = sorted((a for a in range(len(index.shape)) if index.shape[a] > 1), key=lambda a: -index.strides[a])

        lacking = I.alloc_buffer((1,), "int32")
        first, end = (tirx.const(row, index.dtype) for row in (0, rows))

        def lacks(value: Any) -> Any:
            return T.bitwise_or(T.cast(value < first, "int32"), T.cast(value >= end, "int32"))

        def look(at: list[Any]) -> None:
            I.buffer_store(lacking, T.bitwise_or(lacking[0], lacks(indices.raw(*at))), [0])

        def tell(at: list[Any]) -> None:
            with I.If(lacks(indices.raw(*at)) != 0), I.Then():
                I.buffer_store(found, T.cast(indices.raw(*at), "int64"), [0])

        I.buffer_store(lacking, 0, [0])
        nest(task, 1, index.shape, axes, 0, look)
        with I.If(lacking[0] != 0), I.Then():
            nest(task, 1, index.shape, axes, 0, tell)
    return Kernel(finish(), 1)
