"""The epilogue of the compact kernels: equal to Python integers, alone and in vectors, by whatever instructions.

It runs here with instructions of Arm spelled out by their definitions, so that the algorithm around them is tested over
all numbers; the instructions themselves are met under QEMU.
"""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.runtime.elf import Library
from fxquant.targets.kernels.contract.epilogue import Requantization, Rounded
from fxquant.targets.kernels.contract.kernel import TensorSpec
from fxquant.targets.kernels.contract.operations import Rescale
from fxquant.targets.kernels.contract.problem import ConvProblem
from fxquant.targets.kernels.elementwise.rescale import rescale_kernel
from fxquant.targets.kernels.epilogue import narrow, rounding
from fxquant.targets.kernels.words.numbers import typed
from fxquant.targets.kernels.words.tir import argument, get, prim_func, put
from fxquant.targets.tvm_api import I, T, build_object, tirx
from tests.targets.kernels.conv_cases import Array, aligned, object_bytes

PIXELS, CHANNELS = 6, 16
HOST = {"kind": "llvm", "mcpu": "x86-64-v2"}
S32 = (-(1 << 31), (1 << 31) - 1)


def wide(value: Any, lanes: int, dtype: str = "int64") -> Any:
    return T.cast(value, f"{dtype}x{lanes}")


def clamped(value: Any, bounds: tuple[int, int], lanes: int) -> Any:
    low, high = (T.broadcast(tirx.const(n, "int64"), lanes) for n in bounds)
    return T.cast(I.min(I.max(value, low), high), f"int32x{lanes}")


def number(n: int, lanes: int, dtype: str = "int64") -> Any:
    return T.broadcast(tirx.const(n, dtype), lanes)


def shifted_u32(value: Any, n: int) -> Any:
    return T.cast(I.shift_right(value, number(n, 4, "uint64")), "uint32x4")


HELIUM = rounding.VectorRounding(
    rounded=lambda a, b: T.cast(I.shift_right(wide(a, 4) * wide(b, 4) + number(1 << 31, 4), number(32, 4)), "int32x4"),
    floor=lambda a, b: T.cast(I.shift_right(wide(a, 4) * wide(b, 4), number(32, 4)), "int32x4"),
    half_sum=lambda a, b: shifted_u32(wide(a, 4, "uint64") + wide(b, 4, "uint64"), 1),
    shifted=lambda a, n: clamped(I.shift_left(wide(a, 4), number(n, 4)), S32, 4),
    rounded_shift=lambda a, n: shifted_u32(wide(a, 4, "uint64") + number(1 << (n - 1), 4, "uint64"), n),
    sum=lambda a, b: clamped(wide(a, 4) + wide(b, 4), S32, 4),
    narrow=lambda a: clamped(wide(a, 4), (-128, 127), 4),
)
NEON = rounding.LongRounding(lambda a, n, lanes: clamped(I.shift_right(a, number(n, lanes)), S32, lanes))
# Instructions, and how many channels are rounded together.
WAYS = {"scalar": (None, 1), "plain": (None, 4), "helium": (HELIUM, 4), "neon": (NEON, 4), "neon16": (NEON, 16)}


def build(problem: ConvProblem, vector: rounding.Vectors | None, lanes: int) -> Any:
    """A function that stores accumulators from memory."""
    with prim_func("store") as finish:
        I.arg("task", I.int32())
        acc = argument("acc", PIXELS * CHANNELS, "int32")
        numbers = rounding.declare(problem, vector)
        residual = argument("residual", PIXELS * CHANNELS, "int8", 1) if problem.epilogue.residual else None
        out = argument("out", PIXELS * CHANNELS, problem.out.dtype, 1)
        with I.serial(0, PIXELS) as pixel, I.serial(0, CHANNELS // lanes) as c:
            at = pixel * CHANNELS + c * lanes
            other = None if residual is None else typed(get(residual, at, lanes), "int32", lanes)
            put(out, at, numbers.elements(get(acc, at, lanes), c * lanes, lanes, other), lanes)
    return finish()


def reference(problem: ConvProblem, numbers: Requantization, acc: Array, residual: Array) -> Array:
    form = problem.epilogue
    total = acc.astype(object) * np.asarray(numbers.multiplier).astype(object)
    if form.residual is not None:
        total = total + (residual.astype(object) - numbers.residual_zero_point) * numbers.residual_multiplier
    rounded = (total * (1 << form.shift) + (1 << 31)) >> 32
    expected: Array = np.clip(rounded + numbers.zero_point, numbers.low, numbers.high).astype(np.int64)
    return numbers.table[expected + 128] if form.table and numbers.table is not None else expected


def accumulators(rng: np.random.Generator) -> Array:
    drawn: Array = rng.integers(*S32, (PIXELS, CHANNELS)) >> rng.integers(0, 31, (PIXELS, CHANNELS))
    drawn[:, :2] = S32
    drawn[::2, 2:6] = [0, 1, -1, 1 << 30]
    return drawn


@st.composite
def cases(draw: st.DrawFn, lanes: int) -> tuple[ConvProblem, Requantization]:
    """Any numbers that the contract allows."""
    dtype = draw(st.sampled_from(["int8", "int8", "int16"]))
    least, most = (-128, 127) if dtype == "int8" else (-32768, 32767)
    saturates = draw(st.booleans())
    low = least if saturates else draw(st.integers(least, most))
    high = most if saturates else draw(st.integers(low, most))
    image = ((CHANNELS, 1, PIXELS), (1, PIXELS * CHANNELS, CHANNELS))
    table = dtype == "int8" and lanes == 1 and draw(st.booleans())
    other = TensorSpec("int8", *image) if draw(st.booleans()) else None
    form = Rounded(draw(st.sampled_from([0, 0, 1, 2, 9, 15, 30])), other, table)
    problem = ConvProblem(
        TensorSpec("int8", *image), TensorSpec(dtype, *image), (1, 1), epilogue=replace(form, whole=saturates)
    )
    extreme = st.sampled_from([0, 1, (1 << 30) - 1, 1 << 30, (1 << 31) - 1])
    size = st.integers(0, 30).flatmap(lambda n: st.integers(0, (2 << n) - 1))
    multiplier: Array = np.array([draw(extreme | size) for _ in range(CHANNELS)])
    function = np.random.default_rng(draw(st.integers(0, 99))).integers(-128, 128, 256)
    zeros = draw(st.integers(least, most)), draw(st.integers(-128, 127))
    return problem, Requantization(multiplier, zeros[0], low, high, draw(extreme | size), 0, zeros[1], function)


@pytest.mark.parametrize("way", WAYS)
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_equals_python_integers(way: str, data: st.DataObject) -> None:
    problem, numbers = data.draw(cases(WAYS[way][1]))
    check(way, problem, numbers, data.draw(st.integers(0, 1 << 20)))


@pytest.mark.parametrize("shift", [1, 29, 30])
@pytest.mark.parametrize("way", WAYS)
def test_sums_far_beyond_the_output_saturate(way: str, shift: int) -> None:
    image = TensorSpec("int8", (CHANNELS, 1, PIXELS), (1, PIXELS * CHANNELS, CHANNELS))
    problem = ConvProblem(image, image, (1, 1), epilogue=Rounded(shift, image, whole=True))
    for multiplier in (1 << 30, (1 << 31) - 1):
        numbers = Requantization(np.full(CHANNELS, multiplier), -1, -128, 127, multiplier, 0, 3)
        check(way, problem, numbers, shift)


@pytest.mark.parametrize("way", WAYS)
@pytest.mark.parametrize("saturates", [True, False])
def test_narrow_multipliers(way: str, saturates: bool) -> None:
    """Up to the largest accumulators for which 32 bits hold every step, of all channels but one that is all zero."""
    rng, bits = np.random.default_rng(3), np.array([1, 2, 5, 8, 11, 11, 15, 20] * 2)
    factors, zero = rng.integers(1, 1 << bits), 17
    multiplier = factors.astype(np.int64) << rng.integers(10, 31 - bits)
    multiplier[3] = 0
    step = np.where(multiplier > 0, multiplier & -multiplier, 1 << 31)
    least = -((1 << 31) // np.maximum(multiplier // step, 1))
    most = ((1 << 31) - 1 - (zero << 22) - (1 << 21)) // np.maximum(multiplier // step, 1)
    assert narrow.fits(multiplier, zero, (least, most))
    acc = rng.integers(least, most + 1, (PIXELS, CHANNELS)) >> rng.integers(0, 24, (PIXELS, CHANNELS))
    acc[0], acc[1] = least, most
    image = TensorSpec("int8", (CHANNELS, 1, PIXELS), (1, PIXELS * CHANNELS, CHANNELS))
    form = Rounded(narrow=True, whole=saturates, table=WAYS[way][1] == 1)
    problem = ConvProblem(image, image, (1, 1), epilogue=form)
    ends = (-128, 127) if saturates else (-100, 90)
    check(way, problem, Requantization(multiplier, zero, *ends, table=rng.integers(-128, 128, 256)), 0, acc)


@pytest.mark.parametrize("do", [None, HELIUM], ids=["scalar", "helium"])
@pytest.mark.parametrize("shift", [0, 1, 28, 29, 30])
def test_a_dense_requantize_saturates(do: rounding.VectorRounding | None, shift: int) -> None:
    """Sums of every size, far beyond the output, and zero points at its ends."""
    spec = TensorSpec("int32", (1, 64), (64, 1))
    out = TensorSpec("int8", (1, 64), (64, 1))
    func = rescale_kernel(Rescale((spec,), out, shift, saturates=False), do).func
    library = Library(object_bytes(build_object({"rescale": func}, HOST)))
    rng = np.random.default_rng(shift)
    sums = (rng.integers(*S32, 64) >> rng.integers(0, 31, 64)).astype(np.int32)
    sums[:4] = *S32, 0, -1
    for zero_in, zero, multiplier in ((0, -128, (1 << 31) - 1), (66, 127, 1 << 30), (-3, -128, 12345)):
        x = np.clip(sums.astype(np.int64), S32[0] + 200, S32[1] - 200).astype(np.int32)
        numbers = np.array([zero_in, zero, -128, 127], np.int32)
        buffers = [aligned(a) for a in (x, np.array([multiplier], np.int32), numbers, np.zeros(64, np.int8))]
        function = library.function("rescale", None, [ctypes.c_int32, *[ctypes.c_void_p] * 4])
        function(0, *(buffer.ctypes.data for buffer in buffers))
        exact = ((x.astype(object) - zero_in) * multiplier * (1 << shift) + (1 << 31)) >> 32
        np.testing.assert_array_equal(buffers[-1], np.clip(exact + zero, -128, 127).astype(np.int64))


def check(way: str, problem: ConvProblem, numbers: Requantization, seed: int, acc: Array | None = None) -> None:
    vector, lanes = WAYS[way]
    rng = np.random.default_rng(seed)
    acc, residual = (
        accumulators(rng) if acc is None else acc,
        rng.integers(-128, 128, (PIXELS, CHANNELS)).astype(np.int8),
    )
    library = Library(object_bytes(build_object({"store": build(problem, vector, lanes)}, HOST)))
    out = np.zeros((PIXELS, CHANNELS), problem.out.dtype)
    constants = [aligned(value) for value in rounding.constants(problem, numbers).values()]
    others = [residual] if problem.epilogue.residual else []
    buffers = [aligned(acc.astype(np.int32).reshape(-1)), *constants, *others, out]
    store = library.function("store", None, [ctypes.c_int32, *[ctypes.c_void_p] * len(buffers)])
    store(0, *(buffer.ctypes.data for buffer in buffers))
    np.testing.assert_array_equal(out, reference(problem, numbers, acc, residual))
