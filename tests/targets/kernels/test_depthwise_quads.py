"""The depthwise kernel of three rows equals integer arithmetic on every byte, up to the limit of 16 bits."""

from __future__ import annotations

from dataclasses import replace
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.targets.kernels.catalogue import kernels
from fxquant.targets.kernels.choosing import offered
from fxquant.targets.kernels.contract.epilogue import Raw, Rounded
from fxquant.targets.kernels.contract.problem import Layer
from fxquant.targets.kernels.depthwise.quads import (
    BLOCK,
    QuadTile,
    default_quad_tile,
    depthwise_quads_kernel,
    is_quads,
    pack_depthwise_quads,
    ranked_quad_tiles,
    takes_quads,
)
from fxquant.targets.kernels.words.x86 import AVX2, AVX512_VNNI, AVX_VNNI, Isa
from fxquant.targets.tvm_api import build_object
from tests.targets.kernels.conv_cases import WEIGHTS, Array, Case, make_case, needs_avx2, plain_dot_quads
from tests.targets.kernels.prepared_cases import Prepared, check_prepared

cached_kernel = cache(depthwise_quads_kernel)


def roomy(case: Case, seed: int = 0) -> Case:
    """The case with weights of all of s8, of which the outer rows may just meet in 16 bits."""
    rng = np.random.default_rng(seed)
    weight: Array = np.asarray(rng.integers(-128, 128, case.weight.shape), np.int8)
    share = rng.integers(0, 129, weight[:, :, 0].shape)
    sign = rng.choice([-1, 1], share.shape)
    weight[:, :, 0] = np.clip(sign * share, -128, 127)
    weight[:, :, 2] = np.clip(sign * (128 - share), -128, 127)
    assert takes_quads(AVX2, weight)
    return replace(case, weight=weight)


def prepare(case: Case, tile: QuadTile | None = None, isa: Isa = AVX2) -> Prepared:
    tile = tile or default_quad_tile(case.problem, isa)
    constants = pack_depthwise_quads(case.problem, isa, case.layer, case.numbers)
    return Prepared(case, cached_kernel(case.problem, isa, tile), constants)


@needs_avx2
def test_geometries() -> None:
    cases = [
        make_case(1, (32, 32), (9, 9), (3, 3), groups=32),
        make_case(2, (64, 64), (27, 7), (3, 3), groups=64),
        make_case(3, (40, 40), (13, 12), (3, 3), groups=40, stride=(2, 2)),
        make_case(4, (33, 33), (8, 14), (3, 5), groups=33, stride=(1, 2)),
        make_case(5, (72, 72), (9, 14), (3, 3), groups=72, dilation=(1, 3)),
        make_case(6, (95, 95), (10, 9), (3, 1), groups=95, stride=(2, 1)),
        make_case(7, (58, 58), (3, 30), (3, 3), groups=58),
        make_case(8, (34, 34), (40, 3), (3, 3), groups=34, wider=(3, 5), border=2),
        make_case(9, (96, 96), (9, 9), (3, 7), groups=96, stride=(3, 3), border=1),
    ]
    check_prepared([prepare(roomy(case, i)) for i, case in enumerate(cases)])


@needs_avx2
@pytest.mark.parametrize("zero_point", [-128, 127])
def test_bytes_of_every_kind(zero_point: int) -> None:
    drawn = [
        make_case(20 + i, (36, 36), (7, 8), (3, 3), groups=36, stride=(1 + i % 2, 1), zero_points=(zero_point, 0))
        for i in range(4)
    ]
    check_prepared([prepare(roomy(case, i)) for i, case in enumerate(drawn)])


@needs_avx2
def test_epilogues() -> None:
    cases = [
        make_case(70, (40, 40), (6, 9), (3, 3), groups=40, fuse_add=True),
        make_case(71, (37, 37), (6, 7), (3, 3), groups=37, fuse_add=True, wider=(1, 3), form=Rounded(2, table=True)),
        make_case(73, (35, 35), (6, 7), (3, 3), groups=35, form=Raw(), dtype="int32"),
        make_case(74, (32, 32), (6, 7), (3, 3), groups=32, form=Rounded(shift=1), dtype="int8"),
        make_case(75, (48, 48), (6, 7), (3, 3), groups=48, dtype="int16"),
    ]
    check_prepared([prepare(roomy(case, i)) for i, case in enumerate(cases)])


@needs_avx2
def test_tiles_that_overlap() -> None:
    case = roomy(make_case(80, (43, 43), (7, 13), (3, 3), groups=43, fuse_add=True))
    check_prepared([prepare(case, tile) for tile in ranked_quad_tiles(case.problem, AVX2)])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kernel = (3, draw(st.integers(1, 5)))
    dilation = (1, draw(st.integers(1, 3)))
    size = tuple((k - 1) * d + draw(st.integers(1, 12)) for k, d in zip(kernel, dilation, strict=True))
    channels = draw(st.integers(BLOCK, 100))
    seed = draw(st.integers(0, 1 << 30))
    case = make_case(
        seed,
        (channels, channels),
        (size[0], size[1]),
        kernel,
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        dilation=dilation,
        groups=channels,
        form=Rounded(shift=draw(st.sampled_from([0, 0, 5])), table=draw(st.sampled_from([False, False, True]))),
        fuse_add=draw(st.booleans()),
        wider=(draw(st.integers(0, 2)), draw(st.integers(0, 2))),
        border=draw(st.integers(0, 2)),
        zero_points=(draw(st.integers(-128, 127)), draw(st.integers(-128, 127))),
    )
    return roomy(case, seed)


@needs_avx2
@settings(max_examples=3, deadline=None, derandomize=True)
@given(st.lists(cases(), min_size=6, max_size=6))
def test_random_convolutions(drawn: list[Case]) -> None:
    check_prepared([prepare(case) for case in drawn])


@needs_avx2
def test_vnni_takes_all_weights(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("fxquant.targets.kernels.depthwise.quads.dot_quads", plain_dot_quads)
    isa = replace(AVX_VNNI, cpu="x86-64-v3", features=())
    drawn = [make_case(90 + i, (33, 33), (7, 8), (3, 3), groups=33, style=s) for i, s in enumerate(WEIGHTS)]
    assert all(takes_quads(isa, case.weight) for case in drawn)
    check_prepared([prepare(case, None, isa) for case in drawn], isa)


@pytest.mark.parametrize(("isa", "product"), [(AVX2, "vpmaddubsw"), (AVX_VNNI, "vpdpbusd")], ids=lambda x: str(x))
def test_products_are_of_four_bytes(isa: Isa, product: str) -> None:
    case = make_case(100, (64, 64), (16, 16), (3, 3), groups=64)
    tile = default_quad_tile(case.problem, isa)
    kernel = depthwise_quads_kernel(case.problem, isa, tile)
    assembly = build_object({"k": kernel.func}, isa.target).inspect_source("asm")
    lines = [line for line in assembly.splitlines() if product in line]
    assert len(lines) == 3 * 2 * tile.columns  # three columns, two rows
    assert kernel.tasks >= 8


def test_offers_have_quads_first_where_they_are_exact() -> None:
    case = make_case(101, (64, 64), (16, 16), (3, 3), groups=64, style="quarter")
    wide = Layer(np.full_like(case.weight, 127), case.bias, 0)
    fits, not_ = (offered(kernels("avx2").convolution, case.problem, layer) for layer in (case.layer, wide))
    assert fits.first().kernel == "depthwise_quads"
    assert {c.kernel for c in fits.all()} == {"depthwise_quads", "depthwise"}
    assert {c.kernel for c in not_.all()} == {"depthwise"} and fits.key != not_.key
    assert [d.kernel for d in not_.declined] == ["depthwise_quads"] and "do not fit" in not_.declined[0].reason


def test_refusals() -> None:
    case = make_case(102, (64, 64), (16, 16), (3, 3), groups=64, style="highest")
    assert is_quads(case.problem, AVX2) and not takes_quads(AVX2, case.weight)
    with pytest.raises(ValueError, match="do not fit a sum of 16 bits"):
        pack_depthwise_quads(case.problem, AVX2, Layer(case.weight, case.bias, 0), case.numbers)
    with pytest.raises(ValueError, match="expected int8 weights"):
        pack_depthwise_quads(case.problem, AVX2, Layer(case.weight[:, :, :2], case.bias, 0), case.numbers)
    others = [
        make_case(103, (31, 31), (16, 16), (3, 3), groups=31),
        make_case(104, (64, 64), (16, 16), (5, 3), groups=64),
        make_case(105, (64, 64), (16, 16), (3, 3), groups=64, dilation=(2, 1)),
        make_case(106, (32, 64), (16, 16), (3, 3), groups=32),
    ]
    for other in others:
        assert not is_quads(other.problem, AVX2)
        with pytest.raises(ValueError, match="use depthwise"):
            depthwise_quads_kernel(other.problem, AVX2)
    assert not is_quads(case.problem, AVX512_VNNI)
