"""Each observer's range against a plain model of what it promises."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.observers import MeanStd, make
from fxquant.observers.entropy import divergence
from fxquant.observers.mse import Density
from fxquant.qparams import QParams, choose_qparams
from fxquant.scheme import Scheme, activation, weight

SCHEMES = [
    activation(),
    activation(4),
    weight(axis=None),
    weight(4, axis=None),
    Scheme(0, 255),
    Scheme(-128, 255),
    Scheme(0, 255, symmetric=True),
    activation(10),
]


def sample(kind: str) -> Tensor:
    generator = torch.Generator().manual_seed(7)
    x = torch.randn(100_000, generator=generator)
    return {
        "normal": x,
        "relu": x.relu(),
        "negative": -x.abs(),
        "skewed": x.exp() - 0.5,
        "outliers": torch.cat([x, torch.tensor([40.0, -70.0])]),
        "constant": torch.full((1000,), 3.0),
        "tiny": x * 1e-30,
        "huge": x * 1e28,
    }[kind]


KINDS = ["normal", "relu", "negative", "skewed", "outliers", "constant", "tiny", "huge"]


def loss(x: Tensor, q: QParams) -> float:
    return float((q.dequantize(q.quantize(x)).double() - x.double()).square().mean())


@pytest.mark.parametrize("decay", [0.0, 0.5, 0.9])
def test_moving_average_is_the_bias_corrected_running_one(decay: float) -> None:
    observer = make(activation(observer=f"moving_average:{decay}"))
    low = high = weights = 0.0
    for batch in torch.randn(50, 20):
        observer(batch)
        low = decay * low + float(batch.min())
        high = decay * high + float(batch.max())
        weights = decay * weights + 1.0
    assert observer.range()[0].item() == pytest.approx(low / weights, rel=1e-7)
    assert observer.range()[1].item() == pytest.approx(high / weights, rel=1e-7)


@settings(max_examples=100, deadline=None)
@given(
    values=st.lists(st.floats(width=32, min_value=-(2.0**60), max_value=2.0**60), min_size=1, max_size=20),
    offset=st.sampled_from([0.0, 1e6, -3e9]),
)
def test_mean_and_std(values: list[float], offset: float) -> None:
    x = torch.tensor(values) + offset
    observer = make(activation(observer="mean_std:k=1.5"))
    assert isinstance(observer, MeanStd)
    observer(x)
    mean, std = (float(v) for v in observer.mean_std())
    assert mean == pytest.approx(float(math.fsum(x.tolist()) / len(x)), rel=1e-15)
    # numpy subtracts the mean first: good to a few roundings of the largest value.
    close = 1e-12 * float(x.double().abs().max())
    assert std == pytest.approx(float(np.std(x.double().numpy())), rel=1e-9, abs=close)
    assert observer.range()[0].item() == max(mean - 1.5 * std, float(x.min()))
    assert observer.range()[1].item() == min(mean + 1.5 * std, float(x.max()))


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("p", [60.0, 99.0, 99.99, 100.0])
def test_percentile_is_the_sorted_one_to_a_bin(kind: str, p: float) -> None:
    x = sample(kind)
    observer = make(activation(observer=f"percentile:{p}"))
    observer(x)
    low, high = (float(v) for v in observer.range())
    bin_width = 2.0 ** math.frexp(float(x.abs().max()))[1] / 8192
    cut = math.floor(len(x) * ((100 - p) / 100))
    ordered = x.sort().values.tolist()
    sorted_low, sorted_high = ordered[cut], ordered[-1 - cut]
    assert sorted_low - 2 * bin_width <= low <= sorted_low + bin_width
    assert sorted_high - bin_width <= high <= sorted_high + 2 * bin_width
    assert int((x < low).sum()) <= len(x) * (1 - p / 100) and int((x > high).sum()) <= len(x) * (1 - p / 100)


@pytest.mark.parametrize(("kind", "far"), [("normal", ""), ("skewed", "values reach 4"), ("outliers", "values reach")])
def test_mean_std_says_where_data_are_not_bell_shaped(kind: str, far: str) -> None:
    observer = make(activation(observer="mean_std:k=4"))
    observer(sample(kind))
    assert observer.doubt().startswith(far) and bool(observer.doubt()) == bool(far)


@pytest.mark.parametrize("share", [0.25, 1.0])
def test_shrunk_is_a_share_of_what_was_seen(share: float) -> None:
    observer = make(activation(observer=f"shrunk:{share}"))
    observer(torch.tensor([[-2.0, 1.0], [8.0, 3.0]]))
    assert [float(end) for end in observer.range()] == [-2.0 * share, 8.0 * share]


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("scheme", SCHEMES, ids=str)
def test_mse_is_the_best_of_all_observers(kind: str, scheme: Scheme) -> None:
    x = sample(kind)
    losses = {}
    for name in ("minmax", "entropy", "percentile", "mean_std", "mse"):
        observer = make(scheme.with_(observer=name))
        observer(x)
        losses[name] = loss(x, observer.qparams())
    # Finer schemes meet the grain of the sample, which no density knows.
    assert losses["mse"] <= 1.005 * min(losses.values())


@pytest.mark.parametrize("kind", ["normal", "relu", "skewed", "outliers"])
@pytest.mark.parametrize("scheme", [activation(), weight(4, axis=None)], ids=str)
def test_mse_is_near_the_best_of_a_direct_search(kind: str, scheme: Scheme) -> None:
    x = sample(kind)
    observer = make(scheme.with_(observer="mse"))
    observer(x)
    low, high = float(x.min()), float(x.max())
    shrinks = np.exp2(-np.arange(11) / 2)
    candidates = [choose_qparams([low * f], [high * g], scheme) for f in shrinks for g in shrinks]
    candidates.sort(key=lambda q: loss(x[-3000:], q))
    best = min(loss(x, q) for q in candidates[:8])
    assert loss(x, observer.qparams()) <= 1.01 * best


@pytest.mark.parametrize("scheme", [activation(), activation(4), weight(3, axis=None), activation(16)], ids=str)
def test_expected_error_is_that_of_the_data(scheme: Scheme) -> None:
    x = sample("normal")
    observer = make(scheme.with_(observer="mse"))
    observer(x)
    counts, width = observer.histogram.channel(0)  # type: ignore[operator, union-attr]
    ranges = [(-4.5, 4.5), (-2.0, 1.0), (-0.5, 3.0)]
    q = choose_qparams([low for low, _ in ranges], [high for _, high in ranges], scheme.with_(axis=0))
    expected = Density(counts, width).squared_error(q) * width**2 / len(x)
    for index, (low, high) in enumerate(ranges):
        assert expected[index] == pytest.approx(loss(x, choose_qparams([low], [high], scheme)), rel=0.02)


def plain_divergence(cells: list[int], start: int, stop: int, scale: float, zero: int, qmin: int, qmax: int) -> float:
    """The published recipe, word for word."""
    half = len(cells) // 2
    p = [float(c) for c in cells[start:stop]]
    p[0] += sum(cells[:start])
    p[-1] += sum(cells[stop:])
    code = [min(max(round((i + 0.5 - half) / scale + 1e-12) + zero, qmin), qmax) for i in range(start, stop)]
    q = [0.0] * len(p)
    for k in set(code):
        members = [i for i, c in enumerate(code) if c == k and p[i] > 0]
        mass = sum(cells[start + i] for i, c in enumerate(code) if c == k)
        for i in members:
            q[i] = max(mass, 1) / len(members)
    total, kept = sum(p), max(sum(cells[start:stop]), 1)
    return sum(a / total * math.log((a / total) / (b / kept)) for a, b in zip(p, q, strict=True) if a > 0)


@settings(max_examples=100, deadline=None)
@given(
    cells=st.lists(st.integers(0, 9), min_size=40, max_size=40).filter(any),
    window=st.tuples(st.integers(0, 15), st.integers(25, 40)),
    symmetric=st.booleans(),
)
def test_divergence_is_the_published_one(cells: list[int], window: tuple[int, int], symmetric: bool) -> None:
    start, stop = window
    scheme = Scheme(-4, 3, symmetric=symmetric, axis=0)
    # A scale that no cell's middle can tie with.
    found = choose_qparams([(start - 20) * 1.0137], [(stop - 20) * 1.0137], scheme)
    result = divergence(np.array(cells), np.array([start]), np.array([stop]), found, 1.0)
    model = plain_divergence(cells, start, stop, found.scale[0], found.zero_point[0], -4, 3)
    assert float(result[0]) == pytest.approx(model, abs=1e-9)


def test_entropy_clips_outliers_and_keeps_what_is_bounded() -> None:
    outliers = make(activation(observer="entropy"))
    outliers(sample("outliers"))
    assert -10 < outliers.range()[0].item() < -3 and 3 < outliers.range()[1].item() < 10
    bounded = make(activation(observer="entropy"))
    bounded((sample("normal") * 4).clamp(0, 6))
    assert bounded.range()[1].item() == 6.0
    fine = make(activation(16, observer="entropy"))
    fine(sample("outliers"))
    assert fine.range()[1].item() == 40.0


@pytest.mark.parametrize("name", ["minmax", "moving_average", "mean_std", "percentile", "entropy", "mse"])
@pytest.mark.parametrize("value", [0.0, 3.0, -2.0, 1e-42, -3e38])
def test_constant_data_is_kept(name: str, value: float) -> None:
    for scheme in (activation(observer=name), weight(observer=name)):
        observer = make(scheme)
        observer(torch.full((2, 50), value))
        low, high = observer.range()
        assert torch.all(low == high) and float(low[0]) == pytest.approx(value, rel=1e-6)
