"""From accumulators to stored elements: equal to Python integers at the extremes of every number that takes part."""

from __future__ import annotations

import ctypes
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.runtime.elf import Library
from fxquant.targets.kernels.contract.epilogue import Epilogue, Requantization, Rounded
from fxquant.targets.kernels.contract.kernel import TensorSpec
from fxquant.targets.kernels.epilogue import narrow
from fxquant.targets.kernels.epilogue.x86 import GROUP, Row, declare, pack_epilogue, store_rows
from fxquant.targets.kernels.words.tir import argument, load, prim_func
from fxquant.targets.kernels.words.x86 import AVX2, AVX512_VNNI, Isa
from fxquant.targets.tvm_api import I, build_object
from tests.targets.kernels.conv_cases import Array, aligned, needs_avx2, object_bytes

PIXELS, CHANNELS = 14, 64
# The 16-lane epilogue has no instruction of its own: built for AVX2, LLVM halves its vectors and it runs here too.
SIXTEEN = replace(AVX512_VNNI, cpu="x86-64-v3", features=())

DTYPES = {"uint8": 128, "int8": 0, "int16": 0}


def build(form: Epilogue, isa: Isa, vectors: int, dtype: str) -> Any:
    """A function that stores accumulators from memory, seven pixels at a time."""
    with prim_func("store") as finish:
        task = I.arg("task", I.int32())
        acc = argument("acc", PIXELS * CHANNELS, "uint32")
        constants = declare(form, isa, CHANNELS, task)
        residual = argument("residual", PIXELS * CHANNELS, "uint8", 1) if form.residual else None
        out = argument("out", PIXELS * CHANNELS, dtype, 1)
        width = isa.lanes * vectors
        with I.serial(0, PIXELS // 7) as block, I.serial(0, CHANNELS // width) as c:
            rows = []
            for i in range(7):
                first = (block * 7 + i) * CHANNELS + c * width
                loaded = [load(acc, first + j * isa.lanes, isa.lanes) for j in range(vectors)]
                rows.append(Row(loaded, c * width, first, first))
            store_rows(constants, out, rows, residual)
    return finish()


def check(form: Epilogue, isa: Isa, vectors: int, dtype: str, numbers: Requantization, seed: int,
          bounds: tuple[Array, Array] | None = None) -> None:  # fmt: skip
    rng = np.random.default_rng(seed)
    spec = TensorSpec(dtype, (CHANNELS, 1, PIXELS), (1, 0, CHANNELS), DTYPES[dtype])
    acc = rng.integers(-(1 << 31), 1 << 31, (PIXELS, CHANNELS)) >> rng.integers(0, 31, (PIXELS, CHANNELS))
    acc[:, :2] = [-(1 << 31), (1 << 31) - 1]
    acc[::2, 2:6] = [0, 1, -1, 1 << 30]
    if bounds is not None:
        acc = np.clip(acc, *bounds)
        acc[:2] = bounds
    residual = rng.integers(0, 256, (PIXELS, CHANNELS), np.uint8)
    total = acc.astype(object) * (np.asarray(numbers.multiplier).astype(object) << form.shift) + (1 << 31)
    if form.residual is not None:
        r = residual.astype(object) - form.residual.bias - numbers.residual_zero_point
        total = total + r * (numbers.residual_multiplier << numbers.residual_shift)
    expected = np.clip((total >> 32) + numbers.zero_point, numbers.low, numbers.high).astype(np.int64) + spec.bias
    if form.table:
        assert numbers.table is not None
        expected = numbers.table[expected]
    library = Library(object_bytes(build_object({"store": build(form, isa, vectors, dtype)}, isa.target)))
    out = np.zeros((PIXELS, CHANNELS), dtype)
    constants = [aligned(c) for c in pack_epilogue(form, numbers, spec, CHANNELS).values()]
    buffers = [aligned(acc.astype(np.int32).reshape(-1)), *constants, *([residual] if form.residual else []), out]
    library.function("store", None, [ctypes.c_int32, *[ctypes.c_void_p] * len(buffers)])(
        0, *(b.ctypes.data for b in buffers)
    )
    assert np.array_equal(out, expected)


@st.composite
def requantizations(draw: st.DrawFn, dtype: str) -> Requantization:
    extreme = st.sampled_from([0, 1, 2, (1 << 30) - 1, 1 << 30, (1 << 31) - 1])
    bits = st.integers(0, 30).flatmap(lambda n: st.integers(0, (2 << n) - 1))
    multiplier: Array = np.array([draw(extreme if draw(st.booleans()) else bits) for _ in range(CHANNELS)])
    least, most = (-32768, 32767) if dtype == "int16" else (-128, 127)
    low = draw(st.integers(least, most))
    return Requantization(
        multiplier,
        draw(st.integers(least, most)),
        low,
        draw(st.integers(low, most)),
        draw(extreme | bits),
        draw(st.integers(0, 12)),
        draw(st.integers(-128, 127)),
        np.random.default_rng(draw(st.integers(0, 99))).integers(0, 256, 256).astype(np.uint8),
    )


@needs_avx2
@pytest.mark.parametrize("isa", [AVX2, SIXTEEN], ids=["8 lanes", "16 lanes"])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_equals_python_integers(isa: Isa, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["uint8", "uint8", "int8", "int16"]))
    other = TensorSpec("uint8", (CHANNELS, 1, PIXELS), (1, 0, CHANNELS), data.draw(st.sampled_from([0, 128])))
    form = Rounded(
        data.draw(st.sampled_from([0, 0, 1, 7, 31])),
        data.draw(st.sampled_from([None, other])),
        dtype == "uint8" and data.draw(st.booleans()),
    )
    numbers = data.draw(requantizations(dtype))
    check(form, isa, data.draw(st.sampled_from([1, 2, 4])), dtype, numbers, data.draw(st.integers(0, 1 << 20)))


@st.composite
def narrow_channels(draw: st.DrawFn) -> tuple[int, int]:
    """A multiplier with few bits, and how many bits it is shifted by."""
    shift = draw(st.integers(2, 31))
    return draw(st.integers(0, (1 << (shift - 1)) - 1)) << (32 - shift), shift


@needs_avx2
@pytest.mark.parametrize("isa", [AVX2, SIXTEEN], ids=["8 lanes", "16 lanes"])
@settings(max_examples=12, deadline=None, derandomize=True)
@given(data=st.data())
def test_the_narrow_form_equals_the_wide_one_up_to_the_bounds(isa: Isa, data: st.DataObject) -> None:
    dtype = data.draw(st.sampled_from(["uint8", "uint8", "int8"]))
    zero, low = data.draw(st.integers(-128, 127)), data.draw(st.integers(-128, 127))
    whole = dtype == "uint8" and data.draw(st.booleans())
    ends = (-128, 127) if whole else (low, data.draw(st.integers(low, 127)))
    multiplier = np.array([data.draw(narrow_channels())[0] for _ in range(CHANNELS)], np.int64)
    stored = zero + DTYPES[dtype]
    # The least and greatest accumulators that 32 bits hold, by channel, from Python's integers.
    m, c, _ = narrow._numbers(multiplier, stored)
    multiplier[abs(c) >= 1 << 31] = 0
    m, c, _ = (part.astype(object) for part in narrow._numbers(multiplier, stored))
    top, bottom = (1 << 31) - 1, -(1 << 31)
    greatest = np.array([min(top, (top - max(b, 0)) // a if a else top) for a, b in zip(m, c, strict=True)])
    least = np.array([max(bottom, -((min(b, 0) - bottom) // a) if a else bottom) for a, b in zip(m, c, strict=True)])
    assert narrow.fits(multiplier, stored, (least, greatest))
    wider = np.flatnonzero(m * greatest.astype(object) + m + np.maximum(c, 0) > top)
    for channel in wider[:3]:
        beyond = greatest.copy()
        beyond[channel] += 1
        assert not narrow.fits(multiplier, stored, (least, beyond))
    form = Rounded(table=dtype == "uint8" and data.draw(st.booleans()), narrow=True, whole=whole)
    table = np.random.default_rng(data.draw(st.integers(0, 99))).integers(0, 256, 256).astype(np.uint8)
    numbers = Requantization(multiplier, zero, *ends, table=table)
    seed = data.draw(st.integers(0, 1 << 20))
    check(form, isa, data.draw(st.sampled_from([1, 2, 4])), dtype, numbers, seed, (least, greatest))


@pytest.mark.parametrize("isa", [AVX2, AVX512_VNNI], ids=["avx2", "avx512vnni"])
def test_the_narrow_form_takes_less_than_half_the_instructions(isa: Isa) -> None:
    pack = "vpackuswb" if isa is AVX2 else "vpmovusdb"

    def per_pack(form: Epilogue) -> float:
        code = build_object({"store": build(form, isa, GROUP // isa.lanes, "uint8")}, isa.target).inspect_source("asm")
        names = [line.split()[0] for line in code.splitlines() if line.startswith("\tv")]
        return len(names) / names.count(pack)

    assert per_pack(Rounded(narrow=True, whole=True)) < 0.5 * per_pack(Rounded())


def test_refuses_numbers_out_of_range() -> None:
    out = TensorSpec("uint8", (8, 1, 1), (1, 8, 8), 128)
    with pytest.raises(ValueError, match="multipliers must be"):
        pack_epilogue(Rounded(), Requantization(1 << 31, 0, -128, 127), out, 8)
    with pytest.raises(ValueError, match="does not fit uint8"):
        pack_epilogue(Rounded(), Requantization(1, 0, -128, 255), out, 8)
    with pytest.raises(ValueError, match="256 entries"):
        pack_epilogue(Rounded(table=True), Requantization(1, 0, -128, 127), out, 8)
    with pytest.raises(ValueError, match="too large to be fused"):
        pack_epilogue(Rounded(residual=out), Requantization(1, 0, -128, 127, (1 << 31) - 1, 22), out, 8)
    with pytest.raises(ValueError, match="does not match"):
        Rounded(residual=out).check(replace(out, shape=(4, 1, 1)))
    with pytest.raises(ValueError, match="cannot store int32"):
        Rounded().check(replace(out, dtype="int32"))
    with pytest.raises(ValueError, match="a table needs an output of bytes"):
        Rounded(table=True).check(replace(out, dtype="int16"))
    with pytest.raises(ValueError, match="looks up what memory holds as uint8"):
        pack_epilogue(Rounded(table=True), Requantization(1, 0, -128, 127), replace(out, dtype="int8", bias=0), 8)
    with pytest.raises(ValueError, match=r"\[-128, 126\] is not all of"):
        pack_epilogue(Rounded(whole=True), Requantization(1, 0, -128, 126), out, 8)
    with pytest.raises(ValueError, match="for multipliers alone"):
        Rounded(shift=1, narrow=True)
    with pytest.raises(ValueError, match="too many bits for the narrow form"):
        pack_epilogue(Rounded(narrow=True), Requantization(3, 0, -128, 127), out, 8)
