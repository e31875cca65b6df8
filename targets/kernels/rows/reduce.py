"""Sums and extremes over axes, with blocks of the innermost kept axis in registers.

void sum(int32 task, x, zero, out)          void max(int32 task, x, out), void min(int32 task, x, out)
"""

from __future__ import annotations

from collections.abc import Callable
from math import ceil, prod
from typing import Any, Literal

from fxquant.targets.kernels.contract.kernel import Kernel, TensorSpec
from fxquant.targets.kernels.words.tir import argument, prim_func
from fxquant.targets.tvm_api import I, T

BLOCK = 64

Fold = Literal["sum", "max", "min"]
_JOIN: dict[Fold, Callable[[Any, Any], Any]] = {"sum": lambda a, b: a + b, "max": I.max, "min": I.min}


def reduce_kernel(x: TensorSpec, out: TensorSpec, axes: tuple[int, ...], fold: Fold = "sum") -> Kernel:
    """out[kept] = sum over `axes` of x - zero, or their largest or smallest x, which `out` holds as `x` does.

    `out` has the rank of `x`, and size 1 on the axes that are folded.
    """
    kept = sorted((a for a in range(len(x.shape)) if a not in axes and x.shape[a] > 1), key=lambda a: -x.strides[a])
    folded = sorted((a for a in axes if x.shape[a] > 1), key=lambda a: -x.strides[a])
    count = prod(x.shape[a] for a in axes)
    # The innermost kept axis is worked on in blocks; the task number runs over blocks and all other kept axes.
    inner = kept[-1] if kept else None
    length = x.shape[inner] if inner is not None else 1
    block = min(BLOCK, length)
    blocks = ceil(length / block)
    outer = kept[:-1]
    with prim_func(fold) as finish:
        task: Any = I.arg("task", I.int32())
        source = argument("x", x.extent, x.dtype, 1)
        zero = argument("zero", 1, "int32", 4) if fold == "sum" else None
        target = argument("out", out.extent, out.dtype, 1)
        # The last block overlaps the one before.
        first = I.min(task % blocks * block, length - block)
        base_x: Any = first * x.strides[inner] if inner is not None else 0
        base_out: Any = first * out.strides[inner] if inner is not None else 0
        left: Any = task // blocks
        for axis in reversed(outer):
            position = left % x.shape[axis]
            left = left // x.shape[axis]
            base_x, base_out = base_x + position * x.strides[axis], base_out + position * out.strides[axis]
        acc = I.alloc_buffer((block,), "int32")

        def value(at: Any, i: Any) -> Any:
            step = i * x.strides[inner] if inner is not None else 0
            return T.cast(source[at + step], "int32")

        with I.serial(0, block) as i:
            I.buffer_store(acc, value(base_x, i) if zero is None else -(zero[0] + x.bias) * count, [i])

        def fold_in(rest: list[int], at: Any) -> None:
            if not rest:
                with I.serial(0, block) as i:
                    I.buffer_store(acc, _JOIN[fold](acc[i], value(at, i)), [i])
                return
            with I.serial(0, x.shape[rest[0]]) as k:
                fold_in(rest[1:], at + k * x.strides[rest[0]])

        fold_in(folded, base_x)
        with I.serial(0, block) as i:
            found = acc[i] if zero is not None else T.cast(acc[i], out.dtype)
            I.buffer_store(target, found, [base_out + (i * out.strides[inner] if inner is not None else 0)])
    return Kernel(finish(), blocks * prod(x.shape[a] for a in outer))
