"""A small program that is right, for tests to break."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import numpy as np

from fxquant.targets.buffers import Buffer, Tensor, row_major
from fxquant.targets.kernels.contract.kernel import Kernel, TensorSpec
from fxquant.targets.kernels.elementwise.map import map_kernel
from fxquant.targets.kernels.words.tir import argument, prim_func
from fxquant.targets.planner import Grain, plan_memory
from fxquant.targets.program import Call, Overwrite, Program
from fxquant.targets.tvm_api import I
from fxquant.targets.verify.verifier import verify

GRAIN = Grain(align=16, slack=0)
ROWS, COLUMNS = 4, 8
SPEC = row_major("int8", (ROWS, COLUMNS))


def checked(program: Program, grain: Grain = GRAIN) -> None:
    """Plan and verify."""
    verify(program, plan_memory(program, grain), grain)


def tensor(name: str, kind: Any = "arena", spec: TensorSpec = SPEC) -> Tensor:
    """A tensor that fills a buffer."""
    return Tensor.new(name, kind, spec)


def copying(source: TensorSpec = SPEC, target: TensorSpec = SPEC) -> Kernel:
    """A kernel that copies."""
    return map_kernel("copy", target, [source], lambda t, i: t[0](*i))


def handmade(body: Callable[..., None], *sizes: int, tasks: int = 1) -> Kernel:
    """A kernel over flat int8 buffers of these sizes: `body(task, *buffers)` writes it."""
    with prim_func("handmade") as finish:
        task = I.arg("task", I.int32())
        body(task, *(argument(f"p{i}", size, "int8", 1) for i, size in enumerate(sizes)))
    return Kernel(finish(), tasks)


def chain() -> Program:
    """input -> a -> b -> output, each a copy; b may be written over a."""
    program = Program()
    x, a, b, y = tensor("x", "input"), tensor("a"), tensor("b"), tensor("y", "output")
    program.inputs.append(x)
    program.outputs.append(y)
    program.kernels["copy"] = copying()
    program.call("copy", [x, a], a, "first")
    program.call("copy", [a, b], b, "second", [Overwrite(a)])
    program.call("copy", [b, y], y, "third")
    return program


def changed(program: Program, number: int, **changes: Any) -> Program:
    """The program with another call in place of one of its own."""
    program.calls[number] = replace(program.calls[number], **changes)
    return program


def call(program: Program, number: int) -> Call:
    """One of its calls."""
    return program.calls[number]


def operand(program: Program, number: int) -> Tensor:
    """The first operand of one of its calls."""
    found = program.calls[number].arguments[0]
    assert isinstance(found, Tensor)
    return found


def constant(values: Any, dtype: str = "int8") -> Buffer:
    """A constant of these numbers."""
    data = np.asarray(values, dtype).reshape(-1)
    return Buffer("numbers", "constant", data.nbytes, data)
