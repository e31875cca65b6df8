"""The kernel that tells a runtime of an index which a table lacks. The look-up itself clamps, whoever listens."""

from __future__ import annotations

from typing import Any

from fxquant.targets.kernels.kernel import Kernel, TensorSpec
from fxquant.targets.kernels.map import Operand, nest
from fxquant.targets.kernels.simd import argument, prim_func
from fxquant.targets.tvm_api import I, T, tirx


def index_check_kernel(index: TensorSpec, rows: int) -> Kernel:
    """`void f(int32 task, index, int64 *found)`: one of the indices below 0 or from `rows` on, if there is one.

    No such index is 0. Threads that compute different samples may each write theirs: any of them will do.
    """
    with prim_func("index_check") as finish:
        task: Any = I.arg("task", I.int32())
        indices = Operand("index", index)
        found = argument("found", 1, "int64", 8)
        axes = sorted((a for a in range(len(index.shape)) if index.shape[a] > 1), key=lambda a: -index.strides[a])

        def check(at: list[Any]) -> None:
            value = T.cast(indices.raw(*at), "int64")
            with I.If(tirx.any(value < 0, value >= rows)), I.Then():
                I.buffer_store(found, value, [0])

        nest(task, 1, index.shape, axes, 0, check)
    return Kernel(finish(), 1)
