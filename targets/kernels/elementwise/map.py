"""The kernel of everything that is not hot: one expression per output element, over strided tensors.

The function is `void f(int32 task, inputs..., out)`. Loops follow the output's order in memory, so that the innermost
one is contiguous and LLVM vectorizes it; the outer loops are cut into tasks.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from math import ceil, prod
from typing import Any

from fxquant.targets.kernels.contract.kernel import Kernel, TensorSpec
from fxquant.targets.kernels.words.tir import argument, prim_func
from fxquant.targets.tvm_api import I, T

# About 10 microseconds of a simple element-wise operation.
TASK_ELEMENTS = 16384

Index = Sequence[Any]


class Operand:
    """An input of the kernel being built: call it with logical indices to get the value (without the bias)."""

    def __init__(self, name: str, spec: TensorSpec) -> None:
        self.spec = spec
        self.buffer: Any = argument(name, max(spec.extent, 1), spec.dtype, 1)

    def __call__(self, *index: Any) -> Any:
        """The element at `index`; size-1 axes broadcast, and leading axes that the operand lacks are ignored."""
        element = self.raw(*index)
        if self.spec.dtype.startswith("float") or self.spec.dtype in ("int64", "bool"):
            return element
        return T.cast(element, "int32") - self.spec.bias if self.spec.bias else T.cast(element, "int32")

    def raw(self, *index: Any) -> Any:
        """The element as it lies in memory."""
        own = list(index)[len(index) - len(self.spec.shape) :]
        terms = [i * s for i, s, n in zip(own, self.spec.strides, self.spec.shape, strict=True) if n > 1 and s]
        at: Any = 0
        for term in terms:
            at = at + term
        return self.buffer[at]


Body = Callable[[Sequence[Operand], Index], Any]


def map_kernel(
    name: str, out: TensorSpec, inputs: Sequence[TensorSpec], body: Body, weight: int = 1, lanes: int = 1
) -> Kernel:
    """out[index] = body(operands, index) for every index; `weight` is the cost of an element in simple operations.

    `lanes` neighbours of the innermost axis, which they divide, are computed as a vector.
    """
    with prim_func(name) as finish:
        task: Any = I.arg("task", I.int32())
        operands = [Operand(f"in{i}", spec) for i, spec in enumerate(inputs)]
        target = argument("out", out.extent, out.dtype, 1)
        axes = sorted((a for a in range(len(out.shape)) if out.shape[a] > 1), key=lambda a: -out.strides[a])
        tasks, split = cut(out, axes, weight)

        def element(index: list[Any]) -> None:
            at: Any = 0
            for axis in axes:
                at = at + index[axis] * out.strides[axis]
            I.buffer_store(target, stored(body(operands, index), out), [at])

        nest(task, tasks, out.shape, axes, split, element, lanes)
    return Kernel(finish(), tasks)


def cut(out: TensorSpec, axes: Sequence[int], weight: int) -> tuple[int, int]:
    """How many tasks, and how many leading axes of `axes` they divide among themselves."""
    wanted = min(64, ceil(out.size * weight / TASK_ELEMENTS))
    split = 0
    while split < len(axes) - 1 and prod(out.shape[a] for a in axes[:split]) < wanted:
        split += 1
    rounds = prod(out.shape[a] for a in axes[:split])
    return min(wanted, rounds), split


def nest(
    task: Any,
    tasks: int,
    shape: Sequence[int],
    axes: Sequence[int],
    split: int,
    element: Callable[[list[Any]], None],
    lanes: int = 1,
) -> None:
    """Loops over `axes`, the first `split` of them merged and shared out over the tasks; vectors of the last one."""
    index: list[Any] = [0] * len(shape)
    rounds = prod(shape[a] for a in axes[:split])

    def inner(rest: Sequence[int]) -> None:
        if not rest:
            element(index)
            return
        if lanes > 1 and len(rest) == 1:
            with I.serial(0, shape[rest[0]] // lanes) as i, I.vectorized(0, lanes) as lane:
                index[rest[0]] = i * lanes + lane
                element(index)
            return
        with I.serial(0, shape[rest[0]]) as i:
            index[rest[0]] = i
            inner(rest[1:])

    with I.serial(task * rounds // tasks, (task + 1) * rounds // tasks) as merged:
        left = merged
        for axis in reversed(axes[:split]):
            index[axis] = left % shape[axis]
            left = left // shape[axis]
        inner(axes[split:])


def stored(value: Any, out: TensorSpec) -> Any:
    """A value as memory holds it."""
    return T.cast(value + out.bias if out.bias else value, out.dtype)
