"""Expanding stored weights gives exactly what the convolution kernel reads, whatever the tile and the channels."""

from __future__ import annotations

import ctypes

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.packing import pack
from fxquant.runtime.elf import Library
from fxquant.targets.kernels.convolution.winograd.math import TILES
from fxquant.targets.kernels.convolution.winograd.plan import WinogradTile, default_winograd_tile, winograd_plan
from fxquant.targets.kernels.convolution.winograd.weights import (
    expand_kernel,
    packed_size,
    packed_weights,
    stored_weights,
)
from fxquant.targets.kernels.words.x86 import AVX2, AVX512_VNNI, Isa
from fxquant.targets.tvm_api import build_object
from tests.guarded import guarded
from tests.targets.kernels.conv_cases import WEIGHTS, Array, aligned, make_case, needs_avx2, object_bytes
from tests.targets.kernels.proven import require_proven


def check(weight: Array, tile: WinogradTile, bits: int = 8) -> None:
    """Run every task, in descending order, in memory whose neighbourhood cannot be touched."""
    case = make_case(0, (weight.shape[1], weight.shape[0]), (8, 9), (3, 3))
    kernel = expand_kernel(case.problem, AVX2, tile, bits)
    library = Library(object_bytes(build_object({"expand": kernel.func}, AVX2.target)))
    expand = library.function("expand", None, [ctypes.c_int32, ctypes.c_void_p, ctypes.c_void_p])
    expected = packed_weights(case.problem, AVX2, tile, weight)
    stored = stored_weights(weight, AVX2)
    # Of the narrowest weights a byte behind the last may be read, which memory has for every constant.
    stored = guarded(stored) if bits == 8 else aligned(np.append(pack(stored, bits), np.uint8(0)))
    packed = aligned(np.full(expected.shape, 0x5A5A, np.int16))
    require_proven(kernel, [stored, packed])
    for task in reversed(range(kernel.tasks)):
        expand(task, stored.ctypes.data, packed.ctypes.data)
    assert packed.dtype == expected.dtype and len(packed) == packed_size(winograd_plan(case.problem, AVX2, tile))
    np.testing.assert_array_equal(packed, expected)


def any_bytes(seed: int, count: int, channels: int) -> Array:
    drawn = np.random.default_rng(seed).integers(-128, 128, (count, channels, 3, 3)).astype(np.int8)
    drawn[0, 0], drawn[-1, -1] = -128, 127
    return drawn


@needs_avx2
@pytest.mark.parametrize("size", TILES)
@pytest.mark.parametrize(("count", "vectors", "blocks", "resident"), [
    (64, 1, 8, 8), (64, 2, 4, 2), (64, 2, 2, 1), (58, 2, 4, 2), (19, 1, 3, 3), (17, 2, 2, 2), (5, 1, 1, 1),
])  # fmt: skip
def test_blocks_and_resident_blocks(size: int, count: int, vectors: int, blocks: int, resident: int) -> None:
    check(any_bytes(count, count, 6), WinogradTile(size, 1, blocks, resident, 2, vectors))


@needs_avx2
@pytest.mark.parametrize("bits", [4, 2])
@pytest.mark.parametrize(("count", "channels", "vectors"), [(64, 6, 2), (19, 3, 1), (17, 5, 2), (5, 1, 1)])
def test_weights_of_few_bits(bits: int, count: int, channels: int, vectors: int) -> None:
    drawn = np.random.default_rng(bits).integers(-(1 << bits - 1), 1 << bits - 1, (count, channels, 3, 3))
    check(drawn.astype(np.int8), WinogradTile(4, 1, -(-count // (8 * vectors)), 1, 2, vectors), bits)


@needs_avx2
@settings(max_examples=12, deadline=None)
@given(st.sampled_from(TILES), st.integers(1, 40), st.integers(1, 40), st.integers(0, 1 << 30))
def test_any_channels(size: int, count: int, channels: int, seed: int) -> None:
    problem = make_case(0, (channels, count), (8, 9), (3, 3)).problem
    check(any_bytes(seed, count, channels), default_winograd_tile(problem, AVX2, size))


@needs_avx2
@pytest.mark.parametrize("style", WEIGHTS)
def test_weights_of_every_kind(style: str) -> None:
    case = make_case(7, (9, 20), (8, 9), (3, 3), style=style)
    for size in TILES:
        check(case.weight, default_winograd_tile(case.problem, AVX2, size))


@pytest.mark.parametrize("isa", [AVX2, AVX512_VNNI])
def test_stored_weights_are_the_weights(isa: Isa) -> None:
    weight = any_bytes(1, 64, 32)
    assert sorted(stored_weights(weight, isa)) == sorted(weight.reshape(-1))
    assert len(stored_weights(weight[:3, :5], isa)) == 9 * 6 * isa.lanes


def test_wide_vectors_are_built() -> None:
    case = make_case(3, (33, 40), (8, 9), (3, 3))
    kernel = expand_kernel(case.problem, AVX512_VNNI, default_winograd_tile(case.problem, AVX512_VNNI, 4))
    assembly = build_object({"k": kernel.func}, AVX512_VNNI.target).inspect_source("asm")
    assert "vpmovsxbw" in assembly and "zmm" in assembly
