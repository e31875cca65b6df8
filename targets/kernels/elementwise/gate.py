"""A channel's factor times every pixel (squeeze and excitation), and the rounding: one kernel on x86.

    out[c, y, x] = requantize((x[c, y, x] - zero) * (gate[c] - gate zero))

The function is `void f(int32 task, x, gate, zeros, multiplier, scalars, out)`: `zeros` s32[2] as memory holds them, the
rest as in `epilogue.py`. The last vectors of a pixel overlap those before.
"""

from __future__ import annotations

from functools import partial
from math import ceil
from typing import Any

import numpy as np

from fxquant.targets.kernels.contract.epilogue import Epilogue, Requantization
from fxquant.targets.kernels.contract.kernel import Choice, Kernel, TensorSpec
from fxquant.targets.kernels.contract.operations import Gate
from fxquant.targets.kernels.contract.template import Maker
from fxquant.targets.kernels.elementwise.map import TASK_ELEMENTS
from fxquant.targets.kernels.epilogue.x86 import GROUP, Row, declare, pack_epilogue, store_rows
from fxquant.targets.kernels.words.pieces import overlapped
from fxquant.targets.kernels.words.tir import argument, bits, load, prim_func
from fxquant.targets.kernels.words.x86 import Isa
from fxquant.targets.tvm_api import I, T


def is_gate(x: TensorSpec, gate: TensorSpec, out: TensorSpec) -> bool:
    """Whether these are bytes of an image (C, H, W), of a factor for each channel, and of the result."""
    bytes_only = all(t.dtype == "uint8" for t in (x, gate, out))
    innermost = x.strides[0] == out.strides[0] == gate.strides[0] == 1
    return (
        bytes_only and innermost and gate.shape == (x.shape[0], 1, 1) and x.shape == out.shape and x.shape[0] >= GROUP
    )


def vectors(isa: Isa) -> Maker:
    """The template, for one multiplier that is not negative."""

    def make(problem: Gate, numbers: Requantization) -> Choice | None:
        x, gate, out, form = problem.x, problem.gate, problem.out, problem.epilogue
        multiplier = np.asarray(numbers.multiplier)
        if not is_gate(x, gate, out) or multiplier.size != 1 or int(multiplier.flat[0]) < 0:
            return None
        constants = pack_epilogue(form, numbers, out, x.shape[0])
        return Choice("gate", None, partial(gate_kernel, x, gate, out, form, isa), constants)

    return make


def gate_kernel(x: TensorSpec, gate: TensorSpec, out: TensorSpec, form: Epilogue, isa: Isa) -> Kernel:
    """The kernel of tensors for which `is_gate` holds; rows are cut into tasks."""
    channels, rows, columns = x.shape
    tasks = min(rows, ceil(x.size / TASK_ELEMENTS))
    vectors = GROUP // isa.lanes
    with prim_func("gate") as finish:
        task: Any = I.arg("task", I.int32())
        source, factor = argument("x", x.extent, x.dtype, 1), argument("gate", gate.extent, gate.dtype, 1)
        zeros = argument("zeros", 2, "int32", 4)
        epilogue = declare(form, isa, channels, task)
        target = argument("out", out.extent, out.dtype, 1)

        def centred(buffer: Any, at: Any, zero: int) -> Any:
            return T.cast(load(buffer, at, isa.lanes), f"int32x{isa.lanes}") - T.broadcast(zeros[zero], isa.lanes)

        with (
            I.serial(task * rows // tasks, (task + 1) * rows // tasks) as row,
            I.serial(0, columns) as column,
            I.serial(0, ceil(channels / GROUP)) as block,
        ):
            channel = I.Bind(overlapped(block * GROUP, channels, GROUP))
            pixel = row * x.strides[1] + column * x.strides[2] + channel
            products = []
            for j in range(vectors):
                step = j * isa.lanes
                value = centred(source, pixel + step, 0) * centred(factor, channel + step, 1)
                products.append(I.Bind(bits(value, f"uint32x{isa.lanes}")))
            place = row * out.strides[1] + column * out.strides[2] + channel
            store_rows(epilogue, target, [Row(products, channel, place, valid=channels)])
    return Kernel(finish(), tasks)
