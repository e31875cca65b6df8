"""Convolutions to run: their data in guarded memory, the numbers they should give, and one build for many of them."""

from __future__ import annotations

import ctypes
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fxquant.runtime.elf import Library
from fxquant.targets.kernels.contract.epilogue import Epilogue, Raw, Requantization, Rounded
from fxquant.targets.kernels.contract.kernel import TensorSpec
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.convolution.bytes.kernel import conv_kernel
from fxquant.targets.kernels.convolution.bytes.pack import pack_conv
from fxquant.targets.kernels.convolution.bytes.tile import Tile, default_tile
from fxquant.targets.kernels.words.tir import bits, splat
from fxquant.targets.kernels.words.x86 import AVX2, Isa
from fxquant.targets.tvm_api import build_object
from tests.guarded import guarded
from tests.targets.kernels.proven import require_proven

Array = np.ndarray[Any, Any]
PLAIN = Rounded()
needs_avx2 = pytest.mark.skipif(" avx2 " not in Path("/proc/cpuinfo").read_text(), reason="needs an AVX2 CPU")
SLACK = 3  # bytes after the input that a kernel may read


@dataclass(frozen=True)
class Case:
    """A problem with everything it needs to run; `tile` None takes the default."""

    problem: ConvProblem
    weight: Array
    bias: Array
    zero_point: int
    numbers: Requantization
    tile: Tile | None = None

    @property
    def layer(self) -> Layer:
        """Weights, bias and zero point."""
        return Layer(self.weight, self.bias, self.zero_point)


def channels_last(
    channels: int, height: int, width: int, dtype: str = "uint8", bias: int = 128, wider: int = 0, border: int = 0
) -> TensorSpec:
    """A view of a buffer that is `wider` channels wider and has `border` more columns than the view."""
    pixel = channels + wider
    return TensorSpec(dtype, (channels, height, width), (1, (width + border) * pixel, pixel), bias)


WEIGHTS = ("narrow", "quarter", "normal", "uniform", "lowest", "highest", "alternating", "sparse", "few wide")


def make_weight(rng: np.random.Generator, shape: tuple[int, ...], style: str) -> Array:
    """int8 weights: from those that `vpmaddubsw` could always sum to those that it never could."""
    if style in ("narrow", "normal"):
        return np.clip(rng.normal(0, 12 if style == "narrow" else 38, shape), -128, 127).astype(np.int8)
    if style in ("lowest", "highest"):
        return np.full(shape, -128 if style == "lowest" else 127, np.int8)
    if style == "quarter":  # four of them, all of one sign, are the most that 16 bits hold
        return rng.choice(np.array([-32, -32, -31, 0, 31, 32, 32], np.int8), shape)
    weight = rng.integers(-128, 128, shape).astype(np.int8)
    if style == "alternating":
        weight = np.where(weight < 0, -128, 127).astype(np.int8)
    elif style == "sparse":
        weight = np.where(rng.random(shape) < 0.9, 0, weight).astype(np.int8)
    elif style == "few wide":
        weight = np.where(rng.random(shape) < 0.999, weight // 16, 127).astype(np.int8)
    return weight


def make_case(
    seed: int,
    channels: tuple[int, int],
    size: tuple[int, int],
    kernel: tuple[int, int] = (1, 1),
    *,
    stride: tuple[int, int] = (1, 1),
    dilation: tuple[int, int] = (1, 1),
    groups: int = 1,
    style: str = "normal",
    form: Epilogue = PLAIN,
    fuse_add: bool = False,
    dtype: str = "uint8",
    wider: tuple[int, int] = (0, 0),
    border: int = 0,
    zero_points: tuple[int, int] = (-3, 5),
    tile: Tile | None = None,
    operand: str = "uint8",
    drop: int = 0,
) -> Case:
    """A case of `size` padded input pixels with random numbers that use the output's whole range."""
    rng = np.random.default_rng(seed)
    height, width = ((n - (k - 1) * d - 1) // s + 1 for n, k, d, s in zip(size, kernel, dilation, stride, strict=True))
    x = channels_last(channels[0], *size, operand, 128 if operand == "uint8" else 0, wider[0], border)
    bias = 128 if dtype == "uint8" else 0
    out = channels_last(channels[1], height, width, dtype, bias, wider[1], border)
    if fuse_add:
        form = form.beside(channels_last(channels[1], height, width, operand, x.bias, 2 * wider[1]))
    problem = ConvProblem(x, out, kernel, stride, dilation, groups=groups, epilogue=form, drop=drop)
    weight = make_weight(rng, (channels[1], channels[0] // groups, *kernel), style)
    unit = (128.0 if operand == "uint8" else 32768.0) * 2.0 ** (form.shift - drop)
    spread = unit * np.sqrt(np.mean(weight.astype(float) ** 2) * weight[0].size + 1.0)
    wanted = rng.uniform(0.3, 2, channels[1]) * (60 if dtype != "int16" or operand == "uint8" else 15000)
    multiplier = np.minimum(wanted / spread * 2**32, 2**31 - 1).astype(np.int64)
    multiplier[rng.random(channels[1]) < 0.05] = rng.choice([0, 1, 2**31 - 1])
    low, high = (-128, 127) if dtype in ("uint8", "int8") else (-32768, 32767)
    if dtype == "uint8" and rng.random() < 0.5:
        low, high = int(rng.integers(-128, 20)), int(rng.integers(20, 128))
    numbers = Requantization(
        multiplier, zero_points[1], low, high, int(rng.integers(1 << 28, 1 << 31)), int(rng.integers(0, 3)), 11,
        rng.integers(0, 256, 256).astype(np.uint8),
    )  # fmt: skip
    offset = rng.integers(-1000, 1000, channels[1]).astype(np.int32)
    return Case(problem, weight, offset, zero_points[0], numbers, tile)


def aligned(data: Array) -> Array:
    """A copy at a multiple of 64 bytes, as the constants of a kernel must be."""
    raw = np.zeros(data.nbytes + 64, np.uint8)
    start = -raw.ctypes.data % 64
    copy = raw[start : start + data.nbytes].view(data.dtype)
    copy[...] = data
    return copy


def view_of(memory: Array, spec: TensorSpec) -> Array:
    """The tensor that `spec` describes at the start of a byte buffer."""
    flat = memory.view(np.uint8)
    strides = tuple(s * np.dtype(spec.dtype).itemsize for s in spec.strides)
    return np.ndarray(spec.shape, spec.dtype, flat.data, 0, strides)


def reference(case: Case, x: Array, residual: Array | None) -> Array:
    """What memory must hold after the kernel: int64 and Python integers only. `x` holds memory values."""
    problem, numbers = case.problem, case.numbers
    values = x.astype(np.int64) - problem.x.bias - case.zero_point
    _, height, width = problem.out.shape
    acc = np.zeros(problem.out.shape, np.int64) + case.bias[:, None, None]
    per_out, per_in = problem.out.shape[0] // problem.groups, problem.x.shape[0] // problem.groups
    for ky in range(problem.kernel[0]):
        for kx in range(problem.kernel[1]):
            y, z = ky * problem.dilation[0], kx * problem.dilation[1]
            part = values[:, y :: problem.stride[0], z :: problem.stride[1]][:, :height, :width]
            for g in range(problem.groups):
                w = case.weight[g * per_out : (g + 1) * per_out, :, ky, kx].astype(np.int64)
                acc[g * per_out : (g + 1) * per_out] += np.tensordot(w, part[g * per_in : (g + 1) * per_in], 1)
    acc = acc + (1 << problem.drop >> 1) >> problem.drop
    assert abs(acc).max() < 1 << 31
    form = problem.epilogue
    if isinstance(form, Raw):
        return acc.astype(np.int32)
    m = np.asarray(numbers.multiplier).astype(object)[:, None, None]
    total = acc.astype(object) * (m << form.shift) + (1 << 31)
    if residual is not None and form.residual is not None:
        r = residual.astype(object) - form.residual.bias - numbers.residual_zero_point
        total = total + r * (numbers.residual_multiplier << numbers.residual_shift)
    q = np.clip((total >> 32) + numbers.zero_point, numbers.low, numbers.high).astype(np.int64) + problem.out.bias
    if form.table:
        assert numbers.table is not None
        q = numbers.table[q]
    stored: Array = q.astype(problem.out.dtype)
    return stored


def check_cases(cases: list[Case], isa: Isa = AVX2, seed: int = 0) -> None:
    """Build all cases into one object, run every task in random order, and compare every byte of the output buffers."""
    rng = np.random.default_rng(seed)
    kernels = {(case.problem, case.tile): conv_kernel(case.problem, isa, case.tile) for case in cases}
    names = {key: f"k{i}" for i, key in enumerate(kernels)}
    module = build_object({names[key]: kernel.func for key, kernel in kernels.items()}, isa.target)
    library = Library(object_bytes(module))
    for i, case in enumerate(cases):
        problem, kernel = case.problem, kernels[case.problem, case.tile]
        tile = case.tile or default_tile(problem, isa)
        constants = pack_conv(problem, isa, tile, case.layer, case.numbers)
        x = guarded(extreme(rng, problem.x), SLACK)
        out = guarded(rng.integers(0, 256, problem.out.extent * np.dtype(problem.out.dtype).itemsize, np.uint8))
        spec = problem.epilogue.residual
        residual = None if spec is None else guarded(extreme(rng, spec))
        expected = out.copy()
        view_of(expected, problem.out)[...] = reference(
            case, view_of(x, problem.x), None if residual is None or spec is None else view_of(residual, spec)
        )
        packed = [aligned(c) for c in constants.values()]
        buffers = [x, *packed, *([] if residual is None else [residual]), out]
        buffers += [guarded(np.zeros(kernel.scratch, np.uint8))] if kernel.scratch else []
        require_proven(kernel, buffers, packed, SLACK)
        function = library.function(
            names[problem, case.tile], None, [ctypes.c_int32, *[ctypes.c_void_p] * len(buffers)]
        )
        for task in rng.permutation(kernel.tasks):
            function(int(task), *(b.ctypes.data for b in buffers))
        wrong = np.flatnonzero(out != expected)
        assert not wrong.size, f"case {i}: {wrong.size} of {out.size} bytes differ, first at {wrong[0]}; {case.problem}"


def extreme_bytes(rng: np.random.Generator, size: int) -> Array:
    """Random bytes, many of them 0 or 255."""
    data = rng.integers(0, 256, size, np.uint8)
    kind = rng.random(size)
    return np.where(kind < 0.3, 255, np.where(kind < 0.4, 0, data)).astype(np.uint8)


def extreme(rng: np.random.Generator, spec: TensorSpec) -> Array:
    """The bytes of a tensor, many of its elements at the ends of their type."""
    if spec.dtype != "int16":
        return extreme_bytes(rng, spec.extent * np.dtype(spec.dtype).itemsize)
    data, kind = rng.integers(-32768, 32768, spec.extent), rng.random(spec.extent)
    return np.where(kind < 0.3, 32767, np.where(kind < 0.5, -32768, data)).astype(np.int16).view(np.uint8)


def object_bytes(module: Any) -> bytes:
    """The object file of a built module."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "kernels.o"
        module.write_to_file(str(path))
        data: bytes = path.read_bytes()
    return data


def plain_dot_quads(isa: Isa, acc: Any, activations: Any, weights: Any) -> Any:
    """What `vpdpbusd` does, in instructions that any CPU has."""
    lanes = isa.lanes
    for byte in range(4):
        a = (bits(activations, f"uint32x{lanes}") >> splat(8 * byte, "uint32", lanes)) & splat(255, "uint32", lanes)
        w = (bits(weights, f"int32x{lanes}") << splat(24 - 8 * byte, "int32", lanes)) >> splat(24, "int32", lanes)
        acc = acc + a * bits(w, f"uint32x{lanes}")
    return acc
