"""The depthwise kernel equals integer arithmetic on every byte, for all weights and geometries."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.targets.kernels.contract.epilogue import Raw, Rounded
from fxquant.targets.kernels.contract.problem import Layer
from fxquant.targets.kernels.depthwise.pairs import (
    DepthwiseTile,
    default_depthwise_tile,
    depthwise_kernel,
    is_depthwise,
    pack_depthwise,
)
from fxquant.targets.kernels.words.x86 import AVX2, AVX512_VNNI, AVX_VNNI, Isa
from fxquant.targets.tvm_api import build_object
from tests.targets.kernels.conv_cases import WEIGHTS, Case, make_case, needs_avx2
from tests.targets.kernels.prepared_cases import Prepared, check_prepared

cached_kernel = cache(depthwise_kernel)


def prepare(case: Case, tile: DepthwiseTile | None = None) -> Prepared:
    tile = tile or default_depthwise_tile(case.problem, AVX2)
    constants = pack_depthwise(case.problem, AVX2, tile, case.layer, case.numbers)
    return Prepared(case, cached_kernel(case.problem, AVX2, tile), constants)


@needs_avx2
def test_geometries() -> None:
    cases = [
        make_case(1, (16, 16), (9, 9), (3, 3), groups=16),
        make_case(2, (24, 24), (13, 12), (3, 3), groups=24, stride=(2, 2)),
        make_case(3, (40, 40), (11, 14), (5, 5), groups=40),
        make_case(4, (32, 32), (12, 11), (5, 5), groups=32, stride=(2, 2)),
        make_case(5, (58, 58), (9, 14), (3, 3), groups=58, dilation=(2, 3)),
        make_case(6, (8, 8), (9, 30), (2, 7), groups=8, stride=(1, 3)),
        make_case(7, (17, 17), (1, 40), (1, 9), groups=17),
        make_case(8, (9, 9), (40, 1), (6, 1), groups=9, stride=(2, 1)),
        make_case(9, (64, 64), (7, 7), (7, 7), groups=64),
        make_case(10, (11, 11), (5, 5), (1, 1), groups=11, wider=(3, 5), border=2),
        make_case(11, (33, 33), (6, 6), (4, 4), groups=33, stride=(3, 3), border=3),
    ]
    check_prepared([prepare(case) for case in cases])


@needs_avx2
def test_few_channels_and_several_outputs_per_channel() -> None:
    cases = [make_case(20 + c, (c, c), (6, 9), (3, 3), groups=c, wider=(c % 3, 0)) for c in (1, 2, 3, 5, 7)]
    cases += [make_case(30 + m, (c, c * m), (6, 7), (3, 3), groups=c) for c, m in ((8, 2), (3, 4), (5, 8), (1, 4))]
    check_prepared([prepare(case) for case in cases])


@needs_avx2
@pytest.mark.parametrize("zero_point", [-128, 127])
def test_weights_of_every_kind(zero_point: int) -> None:
    # All of u8 meets all of s8: a kernel that added byte products in s16 would saturate on most of these.
    cases = [
        make_case(50 + i, (20, 20), (7, 8), kernel, groups=20, style=style, zero_points=(zero_point, 0))
        for i, style in enumerate(WEIGHTS)
        for kernel in [((3, 3), (5, 5))[i % 2]]
    ]
    check_prepared([prepare(case) for case in cases])


@needs_avx2
def test_epilogues() -> None:
    raw = Raw()
    cases = [
        make_case(70, (24, 24), (6, 9), (3, 3), groups=24, fuse_add=True),
        make_case(71, (21, 21), (6, 7), (3, 3), groups=21, fuse_add=True, wider=(1, 3), form=Rounded(2, table=True)),
        make_case(72, (5, 5), (6, 7), (3, 3), groups=5, fuse_add=True, form=Rounded(table=True)),
        make_case(73, (13, 13), (6, 7), (3, 3), groups=13, form=raw, dtype="int32", style="lowest"),
        make_case(74, (16, 16), (6, 7), (3, 3), groups=16, form=Rounded(shift=1), dtype="int8"),
        make_case(75, (16, 16), (6, 7), (3, 3), groups=16, dtype="int16"),
    ]
    check_prepared([prepare(case) for case in cases])


@needs_avx2
def test_tiles_that_overlap() -> None:
    tiles = [DepthwiseTile(1, 1), DepthwiseTile(3, 1), DepthwiseTile(4, 2), DepthwiseTile(11, 1), DepthwiseTile(5, 3)]
    check_prepared(
        [
            prepare(make_case(80 + i, (43, 43), (6, 13), (3, 3), groups=43, fuse_add=i % 2 == 0), tile)
            for i, tile in enumerate(tiles)
        ]
    )


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    dilation = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    size = tuple((k - 1) * d + draw(st.integers(1, 12)) for k, d in zip(kernel, dilation, strict=True))
    channels = draw(st.integers(1, 40))
    return make_case(
        draw(st.integers(0, 1 << 30)),
        (channels, channels * draw(st.sampled_from([1, 1, 1, 2, 4]))),
        (size[0], size[1]),
        kernel,
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        dilation=dilation,
        groups=channels,
        style=draw(st.sampled_from(WEIGHTS)),
        form=Rounded(shift=draw(st.sampled_from([0, 0, 5])), table=draw(st.sampled_from([False, False, True]))),
        fuse_add=draw(st.booleans()),
        wider=(draw(st.integers(0, 2)), draw(st.integers(0, 2))),
        border=draw(st.integers(0, 2)),
        zero_points=(draw(st.integers(-128, 127)), draw(st.integers(-128, 127))),
    )


@needs_avx2
@settings(max_examples=3, deadline=None, derandomize=True)
@given(st.lists(cases(), min_size=6, max_size=6))
def test_random_convolutions(drawn: list[Case]) -> None:
    check_prepared([prepare(case) for case in drawn])


@pytest.mark.parametrize("isa", [AVX2, AVX_VNNI, AVX512_VNNI])
def test_no_instruction_that_saturates(isa: Isa) -> None:
    case = make_case(90, (64, 64), (16, 16), (3, 3), groups=64)
    assembly = build_object({"k": depthwise_kernel(case.problem, isa).func}, isa.target).inspect_source("asm")
    assert "vpmaddubsw" not in assembly and ("vpmaddwd" in assembly or "vpdpwssd" in assembly)
    assert ("zmm" in assembly) == (isa.lanes == 16)


def test_tasks_cover_a_small_layer() -> None:
    case = make_case(91, (960, 960), (9, 9), (3, 3), groups=960)
    assert depthwise_kernel(case.problem, AVX2).tasks >= 8


def test_refusals() -> None:
    grouped = make_case(95, (16, 16), (6, 6), (3, 3), groups=8)
    tripled = make_case(96, (4, 12), (6, 6), (3, 3), groups=4)
    for case in (grouped, tripled):
        assert not is_depthwise(case.problem, AVX2)
        with pytest.raises(ValueError, match="use the direct conv"):
            depthwise_kernel(case.problem, AVX2)
    case = make_case(97, (8, 8), (5, 5), (3, 3), groups=8)
    with pytest.raises(ValueError, match="int8 weights"):
        pack_depthwise(
            case.problem, AVX2, DepthwiseTile(3, 1), Layer(case.weight.astype(np.int16), case.bias, 0), case.numbers
        )
