"""Winograd equals integer arithmetic on every byte where its bound holds, and the bound is neither loose nor broken."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.bounds import sum_bounds
from fxquant.targets.kernels.contract.epilogue import Raw, Rounded
from fxquant.targets.kernels.contract.problem import Layer
from fxquant.targets.kernels.convolution.winograd.kernel import pack_winograd, winograd_kernel
from fxquant.targets.kernels.convolution.winograd.math import (
    INPUT_GROWTH,
    TILES,
    WEIGHT_GROWTH,
    exact_tiles,
    input_transform,
    transform_weights,
)
from fxquant.targets.kernels.convolution.winograd.plan import (
    WinogradTile,
    choose_winograd,
    default_winograd_tile,
    is_winograd,
    winograd_plan,
)
from fxquant.targets.kernels.convolution.winograd.weights import packed_weights
from fxquant.targets.kernels.words.x86 import AVX2, AVX512_VNNI, AVX_VNNI, Isa
from fxquant.targets.tvm_api import build_object
from tests.targets.kernels.conv_cases import WEIGHTS, Array, Case, make_case, needs_avx2
from tests.targets.kernels.prepared_cases import Prepared, check_prepared

cached_kernel = cache(winograd_kernel)


def prepare(case: Case, size: int, tile: WinogradTile | None = None) -> Prepared:
    assert size in exact_tiles(case.layer.bounds(case.problem.x))
    tile = tile or default_winograd_tile(case.problem, AVX2, size)
    constants = pack_winograd(case.problem, AVX2, tile, case.layer, case.numbers)
    constants["weights"] = packed_weights(case.problem, AVX2, tile, case.weight)
    return Prepared(case, cached_kernel(case.problem, AVX2, tile), constants)


@needs_avx2
@pytest.mark.parametrize("size", TILES)
def test_geometries(size: int) -> None:
    cases = [
        make_case(1, (16, 16), (10, 10), (3, 3)),
        make_case(2, (32, 24), (9, 15), (3, 3)),
        make_case(3, (40, 58), (6, 17), (3, 3), wider=(3, 5), border=2),
        make_case(4, (64, 64), (13, 6), (3, 3), border=1),
        make_case(5, (18, 8), (11, 8), (3, 3), wider=(0, 1)),
    ]
    check_prepared([prepare(case, size) for case in cases])


@needs_avx2
@pytest.mark.parametrize("size", TILES)
def test_channels_that_do_not_fill_vectors(size: int) -> None:
    cases = [make_case(10 + c, (c, 9), (7, 8), (3, 3), wider=(1, 2)) for c in (1, 3, 14, 17)]
    cases += [make_case(60 + c, (16, c), (7, 8), (3, 3), wider=(0, 1), fuse_add=True) for c in (1, 7, 19)]
    check_prepared([prepare(case, size) for case in cases])


@needs_avx2
@pytest.mark.parametrize("size", TILES)
@pytest.mark.parametrize("zero_point", [-128, 127])
def test_weights_of_every_kind(size: int, zero_point: int) -> None:
    # With 48 channels and weights of -128 the true sums reach a third of the bound; everything on the way wraps.
    cases = [
        make_case(100 + i, (48, 20), (7, 8), (3, 3), style=style, zero_points=(zero_point, 0))
        for i, style in enumerate(WEIGHTS)
    ]
    check_prepared([prepare(case, size) for case in cases])


@needs_avx2
@pytest.mark.parametrize("size", TILES)
def test_dilated(size: int) -> None:
    # Phases that tiles fill, that they do not, that differ in length, and along one axis only.
    cases = [
        make_case(120, (16, 16), (16 + 4, 16 + 4), (3, 3), dilation=(2, 2)),
        make_case(121, (16, 8), (11 + 4, 10 + 4), (3, 3), dilation=(2, 2), wider=(1, 2), fuse_add=True),
        make_case(122, (8, 16), (13 + 6, 6 + 2), (3, 3), dilation=(3, 1)),
        make_case(123, (20, 9), (6 + 2, 14 + 6), (3, 3), dilation=(1, 3), border=1),
    ]
    check_prepared([prepare(case, size) for case in cases])


@needs_avx2
def test_epilogues() -> None:
    raw = Raw()
    cases = [
        make_case(140, (16, 24), (8, 9), (3, 3), fuse_add=True),
        make_case(141, (16, 21), (8, 7), (3, 3), fuse_add=True, wider=(1, 3), form=Rounded(2, table=True)),
        make_case(142, (16, 13), (6, 7), (3, 3), form=raw, dtype="int32", style="lowest"),
        make_case(143, (16, 16), (6, 7), (3, 3), form=Rounded(shift=1), dtype="int8"),
        make_case(144, (16, 16), (6, 7), (3, 3), dtype="int16"),
    ]
    check_prepared([prepare(case, size) for case, size in zip(cases, (4, 4, 2, 2, 4), strict=True)])


@needs_avx2
def test_tiles() -> None:
    case = make_case(150, (34, 96), (15, 16), (3, 3), fuse_add=True)
    tiles = [
        WinogradTile(4, 4, 6, 6, 4, 2),
        WinogradTile(4, 3, 2, 1, 5, 2),
        WinogradTile(4, 1, 12, 4, 7, 1),
        WinogradTile(4, 9, 3, 3, 3, 2),
        WinogradTile(2, 1, 1, 1, 8, 1),
        WinogradTile(4, 2, 4, 2, 4, 3),
        WinogradTile(4, 4, 2, 1, 1, 8),
        WinogradTile(4, 3, 3, 3, 1, 4),
    ]
    check_prepared([prepare(case, tile.size, tile) for tile in tiles])


def test_flat_tiles_take_their_weights_from_memory_where_a_panel_serves_many_tiles() -> None:
    def flat(side: int, channels: int, isa: Isa = AVX2) -> bool:
        problem = make_case(151, (channels, channels), (side + 2, side + 2), (3, 3)).problem
        return default_winograd_tile(problem, isa, 4).depth == 1

    assert flat(56, 64) and flat(28, 128) and not flat(14, 256) and not flat(56, 64, AVX_VNNI)
    case = make_case(152, (64, 64), (58, 58), (3, 3))
    assembly = build_object({"k": winograd_kernel(case.problem, AVX2).func}, AVX2.target).inspect_source("asm")
    products = [line for line in assembly.splitlines() if "vpmaddwd" in line]
    assert products and all("(" in line for line in products)


@st.composite
def cases(draw: st.DrawFn) -> tuple[Case, int]:
    size = draw(st.sampled_from(TILES))
    dilation = (draw(st.sampled_from([1, 1, 2, 3])), draw(st.sampled_from([1, 1, 2, 3])))
    case = make_case(
        draw(st.integers(0, 1 << 30)),
        (draw(st.integers(1, 40)), draw(st.integers(1, 40))),
        ((size + 2) * dilation[0] + draw(st.integers(0, 9)), (size + 2) * dilation[1] + draw(st.integers(0, 9))),
        (3, 3),
        style=draw(st.sampled_from(WEIGHTS)),
        form=Rounded(shift=draw(st.sampled_from([0, 0, 5])), table=draw(st.sampled_from([False, False, True]))),
        fuse_add=draw(st.booleans()),
        dilation=dilation,
        wider=(draw(st.integers(0, 2)), draw(st.integers(0, 2))),
        border=draw(st.integers(0, 2)),
        zero_points=(draw(st.integers(-128, 127)), draw(st.integers(-128, 127))),
    )
    return case, size


@needs_avx2
@settings(max_examples=2, deadline=None, derandomize=True)
@given(st.lists(cases(), min_size=5, max_size=5))
def test_random_convolutions(drawn: list[tuple[Case, int]]) -> None:
    check_prepared([prepare(case, size) for case, size in drawn])


@needs_avx2
@pytest.mark.parametrize("size", TILES)
@pytest.mark.parametrize("sign", [-1, 1])
def test_sums_at_the_very_bound(size: int, sign: int) -> None:
    # A bias puts the largest sum on the last value that the division can tell apart; one more is refused.
    case = make_case(170, (16, 8), (size + 2, size + 3), (3, 3), form=Raw(), dtype="int32")
    least, greatest = sum_bounds(case.weight, np.zeros(8, np.int32), case.zero_point, -128, 127)
    limit = 1 << (25 if size == 4 else 29)
    bias = (limit - 1 - greatest if sign > 0 else -limit - least).astype(np.int32)
    check_prepared([prepare(replace(case, bias=bias), size)])
    assert size not in exact_tiles(sum_bounds(case.weight, bias + np.int32(sign), case.zero_point, -128, 127))


def test_sum_bounds_are_reached() -> None:
    weight = np.random.default_rng(0).integers(-128, 128, (5, 3, 3, 3)).astype(np.int8)
    bias = np.arange(5, dtype=np.int32)
    least, greatest = sum_bounds(weight, bias, 10, -20, 90)
    for channel in range(5):
        flat = weight[channel].reshape(-1).astype(int)
        assert greatest[channel] == bias[channel] + sum(w * ((90 if w > 0 else -20) - 10) for w in flat)
        assert least[channel] == bias[channel] + sum(w * ((-20 if w > 0 else 90) - 10) for w in flat)
    assert sum_bounds(weight, bias, 10, 20, 90)[0][0] <= bias[0]  # padding holds the zero point, outside of [20, 90]


def test_wide_layers_lose_the_large_tile() -> None:
    narrow, wide = (np.full((8, channels, 3, 3), 127, np.int8) for channels in (64, 512))
    bias = np.zeros(8, np.int32)
    assert exact_tiles(sum_bounds(narrow, bias, -128, -128, 127)) == (4, 2)
    assert exact_tiles(sum_bounds(wide, bias, -128, -128, 127)) == (2,)
    widest = np.full((1, 8192, 3, 3), 127, np.int8)
    assert exact_tiles(sum_bounds(widest, bias[:1], -128, -128, 127)) == ()


@pytest.mark.parametrize("size", TILES)
def test_operands_fit_s16(size: int) -> None:
    edge = size + 2
    corners = np.indices((2,) * 9).reshape(9, -1).T.reshape(-1, 1, 3, 3) * 255 - 128
    weights = transform_weights(size, corners.astype(np.int8)).astype(int)
    assert abs(weights).max() == 128 * WEIGHT_GROWTH[size] <= 18432

    def transform(d: Array) -> Array:
        return np.stack(input_transform(size, list(d), lambda value, factor: value * factor))

    rows = transform(np.eye(edge, dtype=int))
    planes = np.einsum("ia,jb->ijab", rows, rows).reshape(edge * edge, -1)
    greatest = 255 * max(np.maximum(planes, 0).sum(1).max(), -np.minimum(planes, 0).sum(1).min())
    assert greatest == 255 * INPUT_GROWTH[size] <= 17340


@pytest.mark.parametrize("isa", [AVX_VNNI, AVX512_VNNI])
def test_vnni_uses_its_dot_product(isa: Isa) -> None:
    case = make_case(180, (64, 64), (16, 16), (3, 3))
    assembly = build_object({"k": winograd_kernel(case.problem, isa).func}, isa.target).inspect_source("asm")
    assert "vpdpwssd" in assembly and ("zmm" in assembly) == (isa.lanes == 16)


@pytest.mark.parametrize(("side", "channels"), [(56, 64), (28, 128), (14, 256), (7, 512)])
def test_default_tiles_give_tasks_to_two_threads_and_fit_the_cache(side: int, channels: int) -> None:
    problem = make_case(190, (channels, channels), (side + 2, side + 2), (3, 3)).problem
    for size in TILES:
        plan = winograd_plan(problem, AVX2, default_winograd_tile(problem, AVX2, size))
        assert plan.row_tasks * plan.block_tasks >= 2
        assert plan.scratch_words * 4 <= 1 << 20


def test_choice_between_tiles_and_direct() -> None:
    def chosen(side: int, channels: int, sizes: tuple[int, ...] = TILES) -> int | None:
        problem = make_case(191, (channels, channels), (side + 2, side + 2), (3, 3)).problem
        tile = choose_winograd(problem, AVX2, sizes)
        return tile.size if tile else None

    assert [chosen(side, c) for side, c in ((56, 64), (28, 128), (14, 256), (7, 512))] == [4, 4, 4, 2]
    assert chosen(14, 256, (2,)) == 2
    assert chosen(14, 256, ()) is None and chosen(14, 2) is None and chosen(1, 64) is None


def test_refusals() -> None:
    for case in (
        make_case(195, (16, 16), (9, 9), (3, 3), stride=(2, 2)),
        make_case(196, (16, 16), (9, 9), (3, 3), dilation=(1, 2)),
        make_case(197, (16, 16), (9, 9), (3, 3), groups=2),
        make_case(198, (16, 16), (9, 5), (3, 3)),
        make_case(199, (16, 16), (9, 9), (5, 3)),
    ):
        assert not is_winograd(case.problem, 4)
        with pytest.raises(ValueError, match="use conv"):
            winograd_kernel(case.problem, AVX2)
    case = make_case(200, (16, 16), (9, 9), (3, 3))
    tile = default_winograd_tile(case.problem, AVX2, 4)
    with pytest.raises(ValueError, match="int8 weights"):
        pack_winograd(case.problem, AVX2, tile, Layer(case.weight.astype(np.int16), case.bias, 0), case.numbers)
    with pytest.raises(ValueError, match="does not divide"):
        winograd_plan(case.problem, AVX2, replace(tile, blocks=5))
