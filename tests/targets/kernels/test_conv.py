"""The direct convolution kernel equals integer arithmetic on every byte, for every geometry and extreme weights."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.products import LIMIT, largest_sums
from fxquant.targets.kernels.contract.epilogue import Raw, Rounded
from fxquant.targets.kernels.contract.problem import ConvProblem, Layer
from fxquant.targets.kernels.convolution.bytes.kernel import conv_kernel
from fxquant.targets.kernels.convolution.bytes.pack import kind_shares, pack_conv
from fxquant.targets.kernels.convolution.bytes.template import Direct
from fxquant.targets.kernels.convolution.bytes.tile import Tile, default_tile, doubles_per_turn, fetches_ahead
from fxquant.targets.kernels.words.x86 import AVX2, AVX512_VNNI, AVX_VNNI, Isa
from fxquant.targets.tvm_api import build_object
from tests.targets.kernels.conv_cases import (
    WEIGHTS,
    Case,
    channels_last,
    check_cases,
    make_case,
    needs_avx2,
    plain_dot_quads,
)


@needs_avx2
def test_geometries() -> None:
    check_cases(
        [
            make_case(1, (16, 16), (9, 9), (3, 3)),
            make_case(2, (3, 12), (17, 15), (7, 7), stride=(2, 2)),
            make_case(3, (8, 24), (11, 14), (3, 3), dilation=(2, 3)),
            make_case(4, (5, 7), (6, 6), (2, 3), stride=(1, 2)),
            make_case(5, (1, 8), (1, 40), (1, 9), stride=(1, 3)),
            make_case(6, (2, 10), (1, 33), (1, 5), dilation=(1, 2)),
            make_case(7, (24, 40), (1, 1)),
            make_case(8, (70, 33), (1, 50)),
            make_case(9, (32, 64), (7, 7), wider=(3, 5), border=2),
            make_case(10, (64, 17), (4, 4), (3, 3), wider=(0, 1)),
            make_case(11, (16, 16), (8, 1), (5, 1)),
            make_case(12, (6, 8), (12, 12), (3, 3), stride=(3, 3), border=3),
            make_case(13, (130, 256), (4, 4)),
        ]
    )


@needs_avx2
def test_groups() -> None:
    check_cases(
        [
            make_case(20, (16, 32), (6, 9), (3, 3), groups=2),
            make_case(21, (12, 12), (5, 5), (3, 3), groups=3),
            make_case(22, (10, 20), (5, 7), (3, 2), groups=10),
            make_case(23, (9, 9), (6, 6), (3, 3), groups=9, stride=(2, 2)),
            make_case(25, (4, 32), (1, 9), groups=4, style="highest"),
            make_case(26, (6, 48), (7, 5), (1, 1), groups=6, style="uniform", border=1),
            make_case(24, (48, 48), (3, 3), (1, 1), groups=4, wider=(1, 1)),
        ]
    )


@needs_avx2
@pytest.mark.parametrize("channels", [1, 5, 10, 12, 17, 64])
def test_weights_of_every_kind(channels: int) -> None:
    # All of u8 meets all of s8 here: every style is exact, or `vpmaddubsw` would saturate.
    check_cases(
        [
            make_case(100 + i, (20 if i % 2 else 3, channels), (5, 6), (3, 3), style=style, zero_points=zero_points)
            for i, style in enumerate(WEIGHTS)
            for zero_points in [((-128, 127), (127, -128), (0, 0))[i % 3]]
        ]
    )


@needs_avx2
def test_epilogues() -> None:
    raw = Raw()
    check_cases(
        [
            make_case(40, (12, 24), (6, 7), (3, 3), fuse_add=True),
            make_case(41, (12, 21), (6, 7), (3, 3), fuse_add=True, wider=(1, 3), form=Rounded(shift=2, table=True)),
            make_case(42, (12, 5), (6, 7), fuse_add=True, form=Rounded(table=True)),
            make_case(43, (12, 5), (6, 7), form=raw, dtype="int32"),
            make_case(44, (12, 32), (6, 7), (3, 3), form=raw, dtype="int32", style="lowest"),
            make_case(45, (12, 32), (6, 7), form=Rounded(shift=31)),
            make_case(46, (12, 9), (6, 7), form=Rounded(shift=1), dtype="int8", fuse_add=True),
            make_case(47, (12, 16), (6, 7), dtype="int16"),
            make_case(48, (12, 1), (6, 7), (3, 3), fuse_add=True, form=Rounded(table=True)),
        ]
    )


@needs_avx2
def test_tiles_that_overlap() -> None:
    tiles = [Tile(1, 7, 1), Tile(2, 3, 2), Tile(3, 1, 3), Tile(1, 1, 5), Tile(1, 2, 4), Tile(4, 2, 1)]
    check_cases(
        [
            make_case(60 + i, (16, 43), (6, 11), (2, 2), tile=tile, style=WEIGHTS[1 + i % 3], fuse_add=i % 2 == 0)
            for i, tile in enumerate(tiles)
        ]
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    size = tuple((k - 1) * d + draw(st.integers(1, 9)) for k, d in zip(kernel, dilation, strict=True))
    groups = draw(st.sampled_from([1, 1, 1, 2, 3]))
    channels = (groups * draw(st.integers(1, 20)), groups * draw(st.integers(1, 30)))
    shift = draw(st.sampled_from([0, 0, 1, 5]))
    return make_case(
        draw(st.integers(0, 1 << 30)),
        channels,
        (size[0], size[1]),
        kernel,
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        dilation=dilation,
        groups=groups,
        style=draw(st.sampled_from(WEIGHTS)),
        form=Rounded(shift=shift, table=draw(st.booleans())),
        fuse_add=draw(st.booleans()),
        wider=(draw(st.integers(0, 2)), draw(st.integers(0, 2))),
        border=draw(st.integers(0, 2)),
        zero_points=(draw(st.integers(-128, 127)), draw(st.integers(-128, 127))),
    )


@needs_avx2
@settings(max_examples=6, deadline=None, derandomize=True)
@given(st.lists(cases(), min_size=6, max_size=6))
def test_random_convolutions(drawn: list[Case]) -> None:
    check_cases(drawn)


@needs_avx2
@pytest.mark.parametrize("isa", [AVX_VNNI, AVX512_VNNI], ids=lambda isa: isa.name)
def test_vnni_kernels_with_an_emulated_dot_product(isa: Isa, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxquant.targets.kernels.parts.operand.dot_quads", plain_dot_quads)
    drawn = [
        make_case(70, (16, 40), (6, 9), (3, 3), style="uniform", fuse_add=True),
        make_case(71, (3, 12), (9, 9), (5, 5), stride=(2, 2), style="lowest", form=Rounded(table=True)),
        make_case(72, (40, 33), (1, 1), style="alternating"),
        make_case(73, (12, 20), (5, 5), (3, 3), groups=2, form=Raw(), dtype="int32"),
    ]
    check_cases(drawn, replace(isa, cpu="x86-64-v3", features=()))


@pytest.mark.parametrize("isa", [AVX_VNNI, AVX512_VNNI], ids=lambda isa: isa.name)
def test_vnni_uses_its_dot_product_without_spills(isa: Isa) -> None:
    case = make_case(80, (64, 64), (14, 14), (3, 3), fuse_add=True)
    kernel = conv_kernel(case.problem, isa)
    assembly = build_object({"k": kernel.func}, isa.target).inspect_source("asm")
    products = [line for line in assembly.splitlines() if "vpdpbusd" in line]
    tile = default_tile(case.problem, isa)
    assert products and len(products) % (tile.rows * tile.columns * tile.vectors) == 0
    register = "zmm" if isa.lanes == 16 else "ymm"
    assert all(register in line and "rsp" not in line for line in products)
    assert "vpmaddubsw" not in assembly and kernel.scratch == 0


def test_kinds_of_windows() -> None:
    shares = []
    for style in ("narrow", "uniform", "few wide"):
        case = make_case(90, (64, 64), (6, 6), (3, 3), style=style)
        tile = default_tile(case.problem, AVX2)
        packed = pack_conv(case.problem, AVX2, tile, Layer(case.weight, case.bias, 0), case.numbers)
        shares.append(kind_shares(packed))
    assert shares[0][0] > 0.9  # doubled
    assert shares[1][2] > 0.9  # wide
    assert shares[2][2] == 0 and shares[2][1] > 0  # few: split


def test_weights_made_for_four_products_are_doubled_in_the_widest_block() -> None:
    case = make_case(91, (64, 64), (6, 6), (1, 1))
    weight = torch.randn(64, 64, 1, 1, generator=torch.Generator().manual_seed(0))
    scale = largest_sums(weight.movedim(1, -1), 4) / (LIMIT - 4)  # a little room for rounding
    integers = torch.round(weight / scale.reshape(-1, 1, 1, 1)).to(torch.int8).numpy()
    packed = pack_conv(case.problem, AVX2, Tile(1, 1, 8), Layer(integers, case.bias, 0), case.numbers)
    assert kind_shares(packed) == (1.0, 0.0, 0.0)


@needs_avx2
@pytest.mark.parametrize(("channels", "turn", "doubles"), [(24, 1, 3), (72, 2, 8), (64, 2, 8), (4, 2, 0)])
def test_double_windows_fill_whole_turns_of_the_loop(channels: int, turn: int, doubles: int) -> None:
    # Three would leave one of a pair over, so they go singly; of nine the last becomes two narrow windows.
    cases = [
        make_case(92 + shift, (channels, 64), (3, 5), style="narrow", tile=tile, fuse_add=shift > 0)
        for shift, tile in enumerate((Tile(1, 1, 8), Tile(1, 2, 4), Tile(1, 5, 1)))
    ]
    for case in cases:
        assert case.tile is not None
        packed = pack_conv(case.problem, AVX2, case.tile, Layer(case.weight, case.bias, 0), case.numbers)
        counts = packed["blocks"][:-1].reshape(-1, 3, 3)[:, :, 2]
        assert doubles_per_turn(case.problem) == turn
        assert counts.tolist() == [[doubles, channels // 4 - 2 * doubles, 0]] * len(counts)
    check_cases(cases)


def test_weights_are_fetched_ahead_where_each_is_used_for_few_pixels() -> None:
    few, many, one = (make_case(98, (64, 128), (side, side), style="narrow").problem for side in (7, 28, 1))
    assert [fetches_ahead(problem, AVX2) for problem in (few, many, one)] == [True, False, False]
    for problem in (few, many):
        assembly = build_object({"k": conv_kernel(problem, AVX2).func}, AVX2.target).inspect_source("asm")
        assert ("prefetcht0" in assembly) == (problem is few)


def test_refusals() -> None:
    x, out = channels_last(4, 5, 5), channels_last(8, 3, 3)
    layer = Layer(np.zeros((8, 4, 3, 3), np.int8), np.zeros(8, np.int32), 0)
    declined = Direct(AVX2).declines(ConvProblem(x, channels_last(8, 4, 3), (3, 3)), layer)
    assert declined is not None and declined.reason == "it reads outside of its operand"
    assert Direct(AVX2).declines(ConvProblem(x, out, (3, 3)), layer) is None
    with pytest.raises(ValueError, match="groups"):
        ConvProblem(x, out, (3, 3), groups=3)
    with pytest.raises(ValueError, match="Raw cannot store uint8"):
        ConvProblem(x, out, (3, 3), epilogue=Raw())
    case = make_case(95, (4, 8), (5, 5), (3, 3))
    tile = default_tile(case.problem, AVX2)
    with pytest.raises(ValueError, match="int8 weights"):
        pack_conv(case.problem, AVX2, tile, Layer(case.weight.astype(np.int16), case.bias, 0), case.numbers)
