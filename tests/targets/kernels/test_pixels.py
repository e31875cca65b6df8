"""Images from float planes to interleaved bytes, against the mathematics of Q: ties, NaN, infinity, edges of rows."""

from __future__ import annotations

import ctypes
import tempfile
from pathlib import Path

import numpy as np
import pytest
import torch

from fxquant.qparams import QParams
from fxquant.runtime.elf import Library
from fxquant.targets.kernels.contract.kernel import TensorSpec
from fxquant.targets.kernels.elementwise.pixels import pixels_kernel, takes
from fxquant.targets.kernels.words.x86 import AVX2
from fxquant.targets.tvm_api import build_object
from tests.targets.kernels.conv_cases import needs_avx2
from tests.targets.kernels.proven import require_proven


def specs(channels: int, rows: int, columns: int, border: int, bias: int = 128) -> tuple[TensorSpec, TensorSpec]:
    """Planes with some columns between the rows, and pixels with a border around them."""
    wide = columns + border
    dtype = "uint8" if bias else "int8"
    x = TensorSpec("float32", (channels, rows, columns), (rows * wide, wide, 1))
    return x, TensorSpec(dtype, (channels, rows, columns), (1, wide * channels, channels), bias)


@needs_avx2
@pytest.mark.parametrize("channels", [1, 2, 3, 4])
@pytest.mark.parametrize(("rows", "columns", "border"), [(1, 8, 0), (5, 9, 3), (3, 23, 0), (70, 160, 2)])
@pytest.mark.parametrize(("zero", "low", "high", "bias"), [(-3, -128, 127, 128), (127, -100, 127, 0)])
def test_exact(channels: int, rows: int, columns: int, border: int, zero: int, low: int, high: int, bias: int) -> None:
    x, out = specs(channels, rows, columns, border, bias)
    assert takes(x, out, AVX2)
    rng = np.random.default_rng(columns)
    qparams = QParams.tensor(0.37, zero, low, high)
    data = rng.normal(0, 40, x.extent).astype(np.float32)
    special = [np.nan, np.inf, -np.inf, 0.0, -0.0, 1e38, -1e38, 1e-42]
    ties = (rng.integers(-130, 130, x.extent) + 0.5) * np.float32(qparams.one_scale)
    data = np.where(rng.random(x.extent) < 0.3, ties, data).astype(np.float32)
    data = np.where(rng.random(x.extent) < 0.1, rng.choice(special, x.extent), data).astype(np.float32)
    kernel = pixels_kernel(x, out, AVX2)
    found = np.full(out.extent, 99, out.dtype)
    numbers = np.array([zero, low, high], np.int32)
    memory = [data, np.array([qparams.one_scale], np.float32), numbers, found]
    require_proven(kernel, memory)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "k.o"
        build_object({"pixels": kernel.func}, AVX2.target).write_to_file(str(path))
        function = Library(path.read_bytes()).function("pixels", None, [ctypes.c_int32, *[ctypes.c_void_p] * 4])
    for task in reversed(range(kernel.tasks)):
        function(task, *(m.ctypes.data for m in memory))
    image = torch.as_strided(torch.from_numpy(data), x.shape, x.strides)
    pixels = torch.as_strided(torch.from_numpy(found), out.shape, out.strides)
    assert torch.equal(pixels.int() - bias, qparams.quantize(image).int())
    # Not a byte between the rows is touched.
    untouched = np.ones(out.extent, np.bool_)
    np.lib.stride_tricks.as_strided(untouched, out.shape, out.strides)[...] = False
    assert (found[untouched] == 99).all()


def test_what_it_does_not_take() -> None:
    x, out = specs(3, 4, 8, 0)
    assert not takes(*specs(5, 4, 8, 0), AVX2)
    assert not takes(*specs(3, 4, 7, 0), AVX2)
    assert not takes(TensorSpec("float32", x.shape, (1, 24, 3)), out, AVX2)
    assert not takes(x, TensorSpec("int16", out.shape, out.strides), AVX2)
    assert not takes(x, TensorSpec("uint8", out.shape, (1, 32, 4), 128), AVX2)
