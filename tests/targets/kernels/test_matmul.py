"""Products of two activations against 64-bit arithmetic: shapes around the register tile, layouts, extreme operands."""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

import fxquant
from fxquant.runtime.elf import Library
from fxquant.runtime.memory import allocate
from fxquant.targets.kernels.contract.kernel import TensorSpec
from fxquant.targets.kernels.products.matmul import matmul_kernel
from fxquant.targets.kernels.words.x86 import AVX2, AVX512_VNNI, AVX_VNNI
from fxquant.targets.tvm_api import build_object
from tests.endtoend.networks import runnable_targets
from tests.targets.kernels.conv_cases import needs_avx2
from tests.targets.kernels.proven import require_proven

Array = np.ndarray[Any, Any]

# Heads, rows, columns, depth: below, at and beyond the tile; odd depths; the shapes of small transformers.
SHAPES = [
    (1, 3, 16, 1), (2, 3, 16, 2), (2, 4, 17, 3), (1, 5, 31, 7), (3, 2, 40, 5), (2, 7, 15, 6), (2, 50, 33, 31),
    (3, 197, 197, 64), (3, 197, 64, 197), (12, 64, 64, 32), (1, 1, 1, 1), (1, 49, 48, 96),
]  # fmt: skip


@needs_avx2
@pytest.mark.parametrize("shape", SHAPES)
@pytest.mark.parametrize("transposed", [False, True])
@pytest.mark.parametrize("zeros", [(-128, 127), (3, -7)])
def test_exact(shape: tuple[int, int, int, int], transposed: bool, zeros: tuple[int, int]) -> None:
    heads, rows, columns, depth = shape
    a = TensorSpec("uint8", (heads, rows, depth), (depth, heads * depth, 1), 128)
    strides = (depth, 1, heads * depth) if transposed else (columns, heads * columns, 1)
    b = TensorSpec("uint8", (heads, depth, columns), strides, 128)
    out = TensorSpec("int32", (heads, rows, columns), (rows * columns, columns, 1))
    rng = np.random.default_rng(sum(shape))
    # All ends of the range: the largest sums that there are.
    x, y = (rng.choice([0, 255], s.extent).astype(np.uint8) for s in (a, b))
    expected = (_view(x, a) - 128 - zeros[0]) @ (_view(y, b) - 128 - zeros[1])
    assert np.array_equal(_run(a, b, out, x, y, zeros), expected)


class Attention(nn.Module):
    """Scores of rows against rows, perhaps looked up, and their product with the rows again."""

    def __init__(self, function: bool) -> None:
        super().__init__()
        self.function = function

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, heads, rows, depth) to the same."""
        scores = torch.matmul(x, x.transpose(-2, -1)) * 0.1
        scores = torch.sigmoid(scores) if self.function else scores
        return torch.matmul(scores, x)


@pytest.mark.parametrize("target", runnable_targets())
@pytest.mark.parametrize(
    ("rows", "depth", "function"), [(2, 8, False), (15, 33, False), (40, 32, True), (33, 40, False), (49, 64, True)]
)
def test_with_its_rounding(target: str, rows: int, depth: int, function: bool) -> None:
    torch.manual_seed(rows)
    x = torch.randn(2, 3, rows, depth)
    quantized = fxquant.quantize(fxquant.trace(Attention(function).eval(), x), [x], progress=False)
    with fxquant.compile(quantized, target, threads=2, against_float=False) as net, torch.no_grad():
        for inputs in (x, 30 * x, -x):
            assert torch.equal(net(inputs), quantized(inputs))
        kernels = [str(layer["kernel"]) for layer in net.report["layers"]]
        # Rounded at once where register tiles compute it; else by a layer of its own.
        assert any("requantize" in kernel for kernel in kernels) == (rows < 32)


@pytest.mark.parametrize("isa", [AVX_VNNI, AVX512_VNNI])
def test_vnni_sums_pairs_with_one_instruction(isa: Any) -> None:
    a, b = TensorSpec("uint8", (1, 8, 32), (256, 32, 1), 128), TensorSpec("uint8", (1, 32, 32), (1024, 32, 1), 128)
    kernel = matmul_kernel(a, b, TensorSpec("int32", (1, 8, 32), (256, 32, 1)), isa)
    assembly = build_object({"k": kernel.func}, isa.target).inspect_source("asm")
    register = "zmm" if isa.lanes == 16 else "ymm"
    assert any("vpdpwssd" in line and register in line for line in assembly.splitlines())


def _run(a: TensorSpec, b: TensorSpec, out: TensorSpec, x: Array, y: Array, zeros: tuple[int, int]) -> Array:
    kernel = matmul_kernel(a, b, out, AVX2)
    result = np.full(out.extent, 77, np.int32)
    memory = [x, y, np.asarray(zeros, np.int32), result]
    memory += [allocate(kernel.scratch, zero=False)] if kernel.scratch else []
    require_proven(kernel, memory, memory[2:3])
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "k.o"
        build_object({"matmul": kernel.func}, AVX2.target).write_to_file(str(path))
        function = Library(path.read_bytes()).function(
            "matmul", None, [ctypes.c_int32, *[ctypes.c_void_p] * len(memory)]
        )
    for task in range(kernel.tasks):
        function(task, *(m.ctypes.data for m in memory))
    return _view(result, out)


def _view(flat: Array, spec: TensorSpec) -> Array:
    strides = [s * flat.itemsize for s in spec.strides]
    return np.lib.stride_tricks.as_strided(flat, spec.shape, strides).astype(np.int64)
