"""Kernels with their constants, run in guarded memory and compared with the reference byte for byte."""

from __future__ import annotations

import ctypes
from dataclasses import dataclass

import numpy as np

from fxquant.runtime.elf import Library
from fxquant.targets.kernels.contract.kernel import Kernel, TensorSpec
from fxquant.targets.kernels.words.x86 import AVX2, Isa
from fxquant.targets.tvm_api import build_object
from tests.guarded import guarded
from tests.targets.kernels.conv_cases import (
    Array,
    Case,
    aligned,
    extreme,
    object_bytes,
    reference,
    view_of,
)
from tests.targets.kernels.proven import require_proven


@dataclass(frozen=True)
class Prepared:
    """A case, the kernel under test, and its packed constants in order."""

    case: Case
    kernel: Kernel
    constants: dict[str, Array]


def check_prepared(prepared: list[Prepared], isa: Isa = AVX2, seed: int = 0) -> None:
    """Build all kernels into one object, run every task in random order, and compare all bytes of the outputs.

    Cases that share a kernel object share its code, which is how different weights meet the same code.
    The memory after each tensor cannot be touched, and the bytes between its elements must stay as they were.
    """
    rng = np.random.default_rng(seed)
    names = {id(item.kernel): f"k{i}" for i, item in enumerate(prepared)}
    functions = {names[id(item.kernel)]: item.kernel.func for item in prepared}
    library = Library(object_bytes(build_object(functions, isa.target)))
    for i, item in enumerate(prepared):
        problem, kernel = item.case.problem, item.kernel
        x, out = _filled(rng, problem.x), _filled(rng, problem.out)
        spec = problem.epilogue.residual
        residual = None if spec is None else _filled(rng, spec)
        other = None if residual is None or spec is None else view_of(residual, spec)
        expected = out.copy()
        view_of(expected, problem.out)[...] = reference(item.case, view_of(x, problem.x), other)
        constants = [aligned(c) for c in item.constants.values()]
        buffers = [x, *constants, *([] if residual is None else [residual]), out]
        buffers += [aligned(rng.integers(0, 256, kernel.scratch, np.uint8))] if kernel.scratch else []
        require_proven(kernel, buffers, constants)
        name = names[id(kernel)]
        function = library.function(name, None, [ctypes.c_int32, *[ctypes.c_void_p] * len(buffers)])
        for task in rng.permutation(kernel.tasks):
            function(int(task), *(b.ctypes.data for b in buffers))
        wrong = np.flatnonzero(out != expected)
        assert not wrong.size, f"case {i}: {wrong.size} of {out.size} bytes differ, first at {wrong[0]}; {problem}"


def _filled(rng: np.random.Generator, spec: TensorSpec) -> Array:
    return guarded(extreme(rng, spec))
