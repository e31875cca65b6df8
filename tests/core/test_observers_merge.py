"""Merging observers is exactly observing everything: any split, any grouping."""

from __future__ import annotations

from collections.abc import Sequence

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.errors import CalibrationError
from fxquant.observers import OBSERVERS, Observer, make
from fxquant.scheme import Scheme, activation, weight

SPECS = [*sorted(OBSERVERS), "moving_average:decay=0.2", "moving_average:decay=0", "percentile:90", "mean_std:k=1"]
ANY_ORDER = [spec for spec in SPECS if not spec.startswith("moving_average")]

VALUES = st.floats(width=32, allow_nan=False, allow_infinity=False)
BATCHES = st.lists(st.lists(VALUES, min_size=2, max_size=12), min_size=1, max_size=6)


def tensors(batches: Sequence[Sequence[float]]) -> list[Tensor]:
    """Each batch as [2, values]: two channels."""
    return [torch.tensor(batch[: len(batch) // 2 * 2]).reshape(2, -1) for batch in batches]


def observed(scheme: Scheme, batches: Sequence[Tensor]) -> Observer:
    observer = make(scheme)
    for batch in batches:
        observer(batch)
    return observer


def assert_same(a: Observer, b: Observer) -> None:
    mine, its = a.state(), b.state()
    assert mine.keys() == its.keys()
    for key, value in mine.items():
        assert torch.equal(value, its[key]), key
    assert a.empty or a.qparams() == b.qparams()


@pytest.mark.parametrize("per_channel", [False, True])
@pytest.mark.parametrize("spec", SPECS)
@settings(max_examples=15, deadline=None)
@given(batches=BATCHES, cuts=st.tuples(st.integers(0, 6), st.integers(0, 6)))
def test_parts_merge_to_the_whole(
    spec: str, per_channel: bool, batches: list[list[float]], cuts: tuple[int, int]
) -> None:
    scheme = weight(axis=0, observer=spec) if per_channel else activation(observer=spec)
    data = tensors(batches)
    first, second = sorted(cuts)
    parts = [data[:first], data[first:second], data[second:]]
    whole = observed(scheme, data)
    left, middle, right = (observed(scheme, part) for part in parts)
    left.merge(middle)
    left.merge(right)
    assert_same(left, whole)
    left, middle, right = (observed(scheme, part) for part in parts)
    middle.merge(right)
    left.merge(middle)
    assert_same(left, whole)


@pytest.mark.parametrize("spec", ANY_ORDER)
@settings(max_examples=15, deadline=None)
@given(batches=BATCHES)
def test_how_values_are_batched_and_ordered_does_not_matter(spec: str, batches: list[list[float]]) -> None:
    data = tensors(batches)
    for scheme in (activation(observer=spec), weight(axis=0, observer=spec)):
        assert_same(observed(scheme, [torch.cat(data, dim=1)]), observed(scheme, data[::-1]))


def test_a_long_moving_average_merges_exactly_and_stays_small() -> None:
    scheme = activation(observer="moving_average:decay=0.5")
    data = list(torch.randn(200, 3))
    whole, head, tail = observed(scheme, data), observed(scheme, data[:190]), observed(scheme, data[190:])
    head.merge(tail)
    assert_same(head, whole)
    assert len(whole.state()["lows"]) == 31


def test_merging_leaves_the_other_alone() -> None:
    for spec in SPECS:
        a, b = (observed(activation(observer=spec), [torch.randn(5)]) for _ in range(2))
        before = b.state()
        a.merge(b)
        a(torch.randn(5))
        assert all(torch.equal(value, b.state()[key]) for key, value in before.items())


def test_different_observers_do_not_merge() -> None:
    minmax = make(activation(), "relu_3")
    for scheme in (activation(observer="mse"), weight(), activation(4), activation().with_(symmetric=True)):
        with pytest.raises(CalibrationError, match=r"cannot merge .* into MinMax\(\) .* at relu_3"):
            minmax.merge(make(scheme))
    with pytest.raises(CalibrationError, match=r"decay=0.5.* into .*decay=0.9"):
        make(activation(observer="moving_average")).merge(make(activation(observer="moving_average:0.5")))
    a, b = observed(weight(), [torch.ones(3, 2)]), observed(weight(), [torch.ones(4, 2)])
    with pytest.raises(CalibrationError, match="4 channels after 3"):
        a.merge(b)
