"""The histogram against its definition in exact arithmetic."""

from __future__ import annotations

import math
from collections import Counter
from fractions import Fraction

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.observers import Histogram
from fxquant.observers.histogram import LOWEST_EXPONENT, SIDE, unit_cells

FLOATS = st.floats(width=32, allow_nan=False, allow_infinity=False)


def fill(histogram: Histogram, values: list[float]) -> None:
    rows = torch.tensor([values], dtype=torch.float32)
    histogram.add(rows, rows.amin(1), rows.amax(1))


def expected(values: list[float]) -> tuple[dict[int, int], int]:
    largest = max(abs(Fraction(v)) for v in values)
    exponent = LOWEST_EXPONENT
    while largest >= Fraction(2) ** exponent:
        exponent += 1
    width = Fraction(2) ** exponent / SIDE
    return dict(Counter(math.trunc(Fraction(v) / width) for v in values)), exponent


def found(histogram: Histogram) -> tuple[dict[int, int], int]:
    counts = histogram.counts[0]
    return {int(i) - (SIDE - 1): int(counts[i]) for i in counts.nonzero().flatten()}, int(histogram.exponent[0])


@settings(max_examples=200, deadline=None)
@given(values=st.lists(FLOATS, min_size=1, max_size=20), cut=st.integers(0, 20))
def test_counts_are_those_of_the_final_grid(values: list[float], cut: int) -> None:
    histogram = Histogram()
    for part in (values[:cut], values[cut:]):
        if part:
            fill(histogram, part)
    assert found(histogram) == expected(values)


def test_special_values() -> None:
    tiny, most = 2.0**-149, float(torch.finfo(torch.float32).max)
    for values in ([0.0], [0.0, -0.0], [tiny, -tiny], [most, -most, 1.0], [1.0, -1.0], [tiny, most], [2.0**-112]):
        histogram = Histogram()
        for value in values:
            fill(histogram, [value])
        assert found(histogram) == expected(values)


def test_large_input_is_counted_in_full() -> None:
    values = torch.randn(300_001)
    histogram = Histogram()
    histogram.add(values[None], values.amin()[None], values.amax()[None])
    width = 2.0 ** int(histogram.exponent[0]) / SIDE
    model = np.bincount(np.trunc(values.double().numpy() / width).astype(np.int64) + SIDE - 1, minlength=2 * SIDE - 1)
    assert np.array_equal(histogram.counts[0].numpy(), model)


def test_channels_have_grids_of_their_own() -> None:
    rows = torch.tensor([[1.0, 2.0], [1e-3, -2e-3], [0.0, 0.0]])
    histogram = Histogram(per_channel=True)
    histogram.add(rows, rows.amin(1), rows.amax(1))
    assert histogram.channels == 3 and histogram.exponent.tolist() == [2, -8, LOWEST_EXPONENT]
    assert histogram.counts.sum(1).tolist() == [2, 2, 2]


def test_unit_cells_leave_out_zero() -> None:
    assert unit_cells(np.array([1, 2, 9, 3, 4])).tolist() == [1, 2, 0, 0, 3, 4]
