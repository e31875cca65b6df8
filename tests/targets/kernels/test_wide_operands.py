"""Operands of 16 bits through the x86 kernels: the same templates, exact for all weights, in 32 bits and in 48."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.targets.kernels.contract.epilogue import Raw, Rounded
from fxquant.targets.kernels.contract.kernel import Declined
from fxquant.targets.kernels.convolution.bytes.template import Direct
from fxquant.targets.kernels.depthwise.pairs import default_depthwise_tile, depthwise_kernel, pack_depthwise
from fxquant.targets.kernels.depthwise.templates import Pairs, Quads
from fxquant.targets.kernels.parts import wide
from fxquant.targets.kernels.words.x86 import AVX2, AVX512_VNNI, AVX_VNNI, Isa
from fxquant.targets.tvm_api import build_object
from tests.targets.kernels.conv_cases import WEIGHTS, Case, check_cases, make_case, needs_avx2
from tests.targets.kernels.prepared_cases import Prepared, check_prepared

S16: dict[str, Any] = {"operand": "int16", "dtype": "int16"}


@needs_avx2
def test_convolutions() -> None:
    check_cases(
        [
            make_case(1, (16, 16), (9, 9), (3, 3), **S16),
            make_case(2, (3, 12), (17, 15), (7, 7), stride=(2, 2), zero_points=(-32768, 32767), **S16),
            make_case(3, (8, 24), (11, 14), (3, 3), dilation=(2, 3), zero_points=(32767, -32768), **S16),
            make_case(4, (5, 7), (6, 6), (2, 3), stride=(1, 2), wider=(3, 5), border=2, **S16),
            make_case(5, (12, 12), (5, 5), (3, 3), groups=3, **S16),
            make_case(6, (1, 8), (1, 1), **S16),
            make_case(7, (70, 33), (1, 50), fuse_add=True, **S16),
            make_case(8, (20, 17), (6, 7), (3, 3), operand="int16", form=Rounded(table=True)),
            make_case(9, (20, 17), (6, 7), (3, 3), operand="int16", form=Raw(), dtype="int32"),
            make_case(10, (24, 40), (1, 1), operand="int16", dtype="int8"),
            make_case(11, (24, 40), (3, 3), form=Rounded(shift=2), fuse_add=True, **S16),
        ]
    )


@needs_avx2
def test_weights_of_every_kind() -> None:
    check_cases([make_case(50 + i, (20, 17), (5, 6), (3, 3), style=style, **S16) for i, style in enumerate(WEIGHTS)])


@needs_avx2
@pytest.mark.parametrize("style", ["lowest", "highest", "uniform"])
def test_sums_that_32_bits_do_not_hold(style: str) -> None:
    """Of 2304 products, of 512 and one in a row, and of a few: 48 bits of them are exact, and some are rounded off."""
    check_cases(
        [
            make_case(70, (256, 9), (4, 4), (3, 3), style=style, drop=4, **S16),
            make_case(71, (1025, 20), (1, 3), style=style, drop=3, zero_points=(32767, 0), **S16),
            make_case(72, (5, 20), (4, 6), (3, 3), style=style, drop=1, fuse_add=True, **S16),
            make_case(73, (300, 8), (3, 3), (3, 3), style=style, drop=16, form=Raw(), operand="int16", dtype="int32"),
        ]
    )


def _depthwise(case: Case) -> Prepared:
    tile = default_depthwise_tile(case.problem, AVX2)
    constants = pack_depthwise(case.problem, AVX2, tile, case.layer, case.numbers)
    return Prepared(case, depthwise_kernel(case.problem, AVX2, tile), constants)


@needs_avx2
def test_depthwise() -> None:
    cases = [
        make_case(20, (16, 16), (9, 9), (3, 3), groups=16, **S16),
        make_case(21, (21, 21), (13, 12), (5, 5), groups=21, stride=(2, 2), fuse_add=True, **S16),
        make_case(22, (8, 16), (9, 7), (2, 3), groups=8, dilation=(2, 1), zero_points=(-32768, 0), **S16),
        make_case(23, (24, 24), (6, 7), (3, 3), groups=24, style="lowest", operand="int16", form=Rounded(table=True)),
        make_case(24, (17, 17), (1, 40), (1, 9), groups=17, wider=(1, 3), border=1, **S16),
    ]
    check_prepared([_depthwise(case) for case in cases])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    size = draw(st.integers(1, 3)), draw(st.integers(1, 3))
    around = size[0] + draw(st.integers(0, 6)), size[1] + draw(st.integers(0, 6))
    return make_case(
        draw(st.integers(0, 1 << 20)), (draw(st.integers(1, 40)), draw(st.integers(1, 40))), around, size,
        style=draw(st.sampled_from(WEIGHTS)), drop=draw(st.sampled_from([0, 0, 2])), fuse_add=draw(st.booleans()),
        zero_points=(draw(st.sampled_from([-32768, 0, 32767])), -5), **S16,
    )  # fmt: skip


@needs_avx2
@settings(max_examples=2, deadline=None, derandomize=True)
@given(st.lists(cases(), min_size=6, max_size=6))
def test_random_convolutions(drawn: list[Case]) -> None:
    check_cases(drawn)


@pytest.mark.parametrize("isa", [AVX2, AVX_VNNI, AVX512_VNNI])
def test_products_of_pairs_by_one_instruction(isa: Isa) -> None:
    case = make_case(90, (64, 64), (8, 8), (3, 3), **S16)
    template = Direct(isa)
    choice = template.choice(case.problem, case.layer, case.numbers, template.tiles(case.problem, case.layer)[0])
    assembly = build_object({"k": choice.build().func}, isa.target).inspect_source("asm")
    assert ("vpdpwssd" if isa.exact_quads else "vpmaddwd") in assembly
    assert "vpmaddubsw" not in assembly and "vpdpbusd" not in assembly
    assert choice.constants["weights"].dtype == np.int8 and choice.constants["weights"].size == 64 * 64 * 9


def test_who_takes_them() -> None:
    case = make_case(91, (64, 64), (8, 8), (3, 3), groups=64, **S16)
    assert Quads(AVX2).declines(case.problem, case.layer) == Declined("depthwise_quads")
    assert Pairs(AVX2).declines(case.problem, case.layer) is None
    wider = make_case(91, (64, 64), (8, 8), (3, 3), groups=64, drop=1, **S16)
    assert Pairs(AVX2).declines(wider.problem, wider.layer) == Declined("depthwise")
    assert Direct(AVX2).declines(wider.problem, wider.layer) is None


def test_no_sum_is_left_alone_for_too_long() -> None:
    """So many of the largest products, and what a move leaves, fit 31 bits."""
    assert wide.TAPS * 128 * 32768 + (1 << wide.HALF) - 1 < 1 << 31
    assert all(wide.turns(taps) * taps <= wide.TAPS for taps in range(1, wide.TAPS + 1))
    with pytest.raises(ValueError, match="511 products at a time"):
        wide.turns(wide.TAPS + 1)
