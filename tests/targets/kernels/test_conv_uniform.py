"""Convolutions whose windows are all double equal integer arithmetic on every byte, up to the limit of 16 bits."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.targets.kernels.contract.epilogue import Raw, Rounded
from fxquant.targets.kernels.contract.problem import Layer
from fxquant.targets.kernels.convolution.bytes.kernel import conv_kernel
from fxquant.targets.kernels.convolution.bytes.pack import is_uniform, pack_conv
from fxquant.targets.kernels.convolution.bytes.tile import Tile, default_tile
from fxquant.targets.kernels.convolution.bytes.uniform import Run, runs
from fxquant.targets.kernels.convolution.bytes.windows import in_twos, windows
from fxquant.targets.kernels.words.x86 import AVX2, AVX_VNNI
from fxquant.targets.tvm_api import build_object
from tests.targets.kernels.conv_cases import Case, check_cases, make_case, needs_avx2


def uniform(case: Case) -> Case:
    """The case with the tile that the cost model takes for such weights, unless it has one."""
    assert is_uniform(case.problem, AVX2, case.weight)
    tile = case.tile or default_tile(case.problem, AVX2, 4)
    return replace(case, tile=replace(tile, uniform=True))


@needs_avx2
def test_geometries() -> None:
    drawn = [
        make_case(1, (16, 16), (9, 9), (3, 3), style="quarter"),
        make_case(2, (3, 12), (17, 15), (7, 7), style="quarter", stride=(2, 2)),
        make_case(3, (8, 24), (11, 14), (3, 3), style="quarter", dilation=(2, 3)),
        make_case(4, (5, 7), (6, 6), (2, 3), style="quarter", stride=(1, 2)),
        make_case(5, (1, 8), (1, 40), (1, 9), style="quarter", stride=(1, 3)),
        make_case(6, (6, 10), (1, 33), (1, 5), style="quarter", dilation=(1, 2)),
        make_case(7, (24, 40), (3, 5), style="quarter"),
        make_case(8, (70, 33), (1, 50), style="quarter"),
        make_case(9, (32, 64), (7, 7), style="quarter", wider=(3, 5), border=2),
        make_case(10, (64, 17), (4, 4), (3, 3), style="quarter", wider=(0, 1)),
        make_case(11, (16, 16), (8, 1), (5, 1), style="quarter"),
        make_case(12, (300, 256), (4, 4), style="quarter", fuse_add=True),
        make_case(13, (130, 64), (3, 3), (3, 3), style="quarter", form=Rounded(table=True)),
        make_case(14, (40, 9), (3, 3), style="quarter", form=Raw(), dtype="int32"),
        make_case(15, (1, 20), (28, 12), (10, 4), style="quarter", stride=(2, 2)),
        make_case(16, (4, 16), (5, 5), style="quarter"),
    ]
    check_cases([uniform(case) for case in drawn])


@needs_avx2
def test_tiles_that_overlap() -> None:
    tiles = [Tile(1, 7, 1), Tile(2, 3, 2), Tile(3, 1, 3), Tile(1, 1, 8), Tile(1, 2, 4), Tile(4, 2, 1)]
    drawn = [make_case(60 + i, (24, 75), (6, 11), (2, 2), tile=tile, style="quarter") for i, tile in enumerate(tiles)]
    check_cases([uniform(case) for case in drawn])


@st.composite
def cases(draw: st.DrawFn) -> Case:
    kernel = (draw(st.integers(1, 4)), draw(st.integers(1, 4)))
    dilation = (draw(st.integers(1, 3)), draw(st.integers(1, 3)))
    size = tuple((k - 1) * d + draw(st.integers(1, 9)) for k, d in zip(kernel, dilation, strict=True))
    return make_case(
        draw(st.integers(0, 1 << 30)),
        (draw(st.integers(8, 60)), draw(st.integers(1, 70))),
        (size[0], size[1]),
        kernel,
        stride=(draw(st.integers(1, 3)), draw(st.integers(1, 3))),
        dilation=dilation,
        style="quarter",
        fuse_add=draw(st.booleans()),
        wider=(draw(st.integers(0, 2)), draw(st.integers(0, 2))),
        border=draw(st.integers(0, 2)),
        zero_points=(draw(st.integers(-128, 127)), draw(st.integers(-128, 127))),
    )


@needs_avx2
@settings(max_examples=5, deadline=None, derandomize=True)
@given(st.lists(cases(), min_size=6, max_size=6))
def test_random_convolutions(drawn: list[Case]) -> None:
    check_cases([uniform(case) for case in drawn])


@given(st.lists(st.tuples(st.integers(0, 40), st.integers(0, 8)), max_size=30), st.integers(1, 4), st.integers(1, 4))
def test_runs_are_the_same_windows_in_the_same_order(drawn: list[tuple[int, int]], rows: int, count: int) -> None:
    regular = [(40 * row + 8 * i, 40 * row + 8 * i + 4) for row in range(rows) for i in range(count)]
    for starts in (drawn, regular, regular + drawn, drawn + regular):
        found = [
            (first + row * run.pitch + index * run.step, second + row * run.pitch + index * run.step)
            for run in runs(starts)
            for row in range(run.rows)
            for index in range(run.count)
            for first, second in [(run.start, run.second)]
        ]
        assert found == starts
    assert len(runs(regular)) == 1


def test_rows_of_a_kernel_are_one_run() -> None:
    problem = make_case(2, (64, 64), (9, 9), (3, 3), stride=(2, 2)).problem
    starts = windows(problem, 0, 64).starts
    doubles, singles = in_twos(problem)
    assert runs([(starts[a], starts[b]) for a, b in doubles]) == [Run(0, 4, 8, 24, 3, 9 * 64)] and not singles


def test_windows_left_over_are_those_at_the_end_of_a_kernel_row() -> None:
    problem = make_case(3, (4, 8), (9, 9), (3, 3)).problem
    assert in_twos(problem) == ([(0, 1), (3, 4), (6, 7)], [2, 5, 8])


def test_what_is_not_uniform() -> None:
    case = make_case(4, (16, 16), (5, 5), style="quarter")
    above = case.weight.copy()
    above[3, :2] = 32
    above[3, 4:6, 0, 0] = (32, 33)
    assert is_uniform(case.problem, AVX2, case.weight) and not is_uniform(case.problem, AVX2, above)
    assert not is_uniform(case.problem, AVX_VNNI, case.weight)
    grouped = make_case(5, (16, 16), (5, 5), groups=2, style="quarter")
    assert not is_uniform(grouped.problem, AVX2, grouped.weight)
    # No window follows another in a row of its kernel: each is alone, with room for two products.
    single = make_case(6, (1, 16), (12, 9), (10, 4), style="quarter")
    wider = single.weight.copy()
    wider[3, 0, 2] = (64, 64, -64, 64)
    assert is_uniform(single.problem, AVX2, wider) and not is_uniform(single.problem, AVX2, wider + (wider == 64))
    with pytest.raises(ValueError, match="no room for four products"):
        pack_conv(case.problem, AVX2, Tile(1, 1, 2, uniform=True), Layer(above, case.bias, 0), case.numbers)


def test_nothing_is_looked_up() -> None:
    case = make_case(7, (256, 64), (14, 14), style="quarter")
    tile = default_tile(case.problem, AVX2, 4, True)
    kernel = conv_kernel(case.problem, AVX2, tile)
    packed = pack_conv(case.problem, AVX2, tile, Layer(case.weight, case.bias, 0), case.numbers)
    assert list(packed) == ["bias", "weights", "multiplier", "scalars"] and kernel.scratch == 0
    assert np.array_equal(np.sort(packed["weights"]), np.sort(case.weight.reshape(-1)))
    assembly = build_object({"k": kernel.func}, AVX2.target).inspect_source("asm")
    products = [line for line in assembly.splitlines() if "vpmaddubsw" in line]
    assert products and not any("rsp" in line for line in products)
