"""`choose_qparams`, `quantize` and `dequantize` against exact arithmetic and against numpy."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest
import torch
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from fxquant.errors import SchemeError
from fxquant.qparams import LARGEST_SCALE, SMALLEST_SCALE, QParams, as_float32, choose_qparams
from fxquant.scheme import STORAGE, Scheme

REALS = st.floats(width=32, allow_nan=False, allow_infinity=False)
ENDS = st.tuples(REALS, REALS).map(lambda pair: (min(pair), max(pair)))
# Ranges whose scale is neither clamped for being tiny nor for being huge.
USUAL = st.floats(width=32, min_value=-(2.0**90), max_value=2.0**90)
USUAL_ENDS = st.tuples(USUAL, USUAL).map(lambda pair: (min(pair), max(pair)))


@st.composite
def schemes(draw: st.DrawFn) -> Scheme:
    """Any legal per-tensor scheme."""
    low, high = draw(st.sampled_from(list(STORAGE.values())))
    usual = st.sampled_from(
        [(-128, 127), (0, 255), (-128, 255), (-127, 127), (-8, 7), (0, 15), (-(1 << 15), (1 << 15) - 1)]
    )
    free = st.tuples(st.integers(low, high - 1), st.integers(1, high - low)).map(
        lambda p: (p[0], min(p[0] + p[1], high))
    )
    qmin, qmax = draw(usual | free)
    symmetric = draw(st.booleans())
    assume(not symmetric or (qmax - qmin >= 2 and (qmin >= 0 or qmax > 0)))
    return Scheme(qmin, qmax, symmetric=symmetric)


@st.composite
def qparams(draw: st.DrawFn) -> QParams:
    """Any legal per-tensor parameters with a scale that leaves room in float32."""
    scheme = draw(schemes())
    scale = draw(st.floats(width=32, min_value=2.0**-60, max_value=2.0**60))
    return QParams.tensor(scale, draw(st.integers(scheme.qmin, scheme.qmax)), scheme.qmin, scheme.qmax)


def model(x: float, q: QParams) -> int:
    """The definition, with the quotient rounded to float32 as the definition says."""
    if math.isnan(x):
        return q.one_zero_point
    with np.errstate(over="ignore", under="ignore"):
        quotient = np.float32(x) / np.float32(q.one_scale)
    if math.isinf(quotient):
        return q.qmax if quotient > 0 else q.qmin
    return max(q.qmin, min(q.qmax, round(Fraction(float(quotient))) + q.one_zero_point))


@settings(max_examples=300, deadline=None)
@given(q=qparams(), values=st.lists(st.floats(width=32), min_size=1, max_size=8))
def test_quantize_is_the_definition(q: QParams, values: list[float]) -> None:
    codes = q.quantize(torch.tensor(values))
    assert codes.dtype == q.dtype
    assert codes.tolist() == [model(x, q) for x in values]


@settings(max_examples=300, deadline=None)
@given(q=qparams(), data=st.data())
def test_ties_go_to_the_even_code_before_the_zero_point(q: QParams, data: st.DataObject) -> None:
    scale = 2.0 ** round(math.log2(q.one_scale))
    q = QParams.tensor(scale, q.one_zero_point, q.qmin, q.qmax)
    half = data.draw(st.integers(q.qmin - q.one_zero_point - 2, q.qmax - q.one_zero_point + 1))
    even = half + half % 2
    expected = max(q.qmin, min(q.qmax, even + q.one_zero_point))
    assert q.quantize(torch.tensor((half + 0.5) * scale)).item() == expected


@settings(max_examples=200, deadline=None)
@given(q=qparams(), values=st.lists(st.floats(width=16), min_size=1, max_size=4))
def test_every_floating_dtype_is_divided_in_float32(q: QParams, values: list[float]) -> None:
    for dtype in (torch.float16, torch.bfloat16, torch.float64):
        x = torch.tensor(values, dtype=dtype)
        assert torch.equal(q.quantize(x), q.quantize(x.to(torch.float32)))


@settings(max_examples=300, deadline=None)
@given(q=qparams(), data=st.data())
def test_codes_survive_the_round_trip(q: QParams, data: st.DataObject) -> None:
    codes = torch.tensor(data.draw(st.lists(st.integers(q.qmin, q.qmax), min_size=1, max_size=8)), dtype=q.dtype)
    real = q.dequantize(codes)
    assert real.dtype == torch.float32
    model_real = (codes.numpy().astype(np.float32) - np.float32(q.one_zero_point)) * np.float32(q.one_scale)
    assert np.array_equal(real.numpy(), model_real)
    assert torch.equal(q.quantize(real), codes)


@settings(max_examples=200, deadline=None)
@given(scheme=schemes(), ends=ENDS)
def test_zero_is_exact_and_the_parameters_are_legal(scheme: Scheme, ends: tuple[float, float]) -> None:
    q = choose_qparams([ends[0]], [ends[1]], scheme)
    assert scheme.qmin <= q.one_zero_point <= scheme.qmax
    assert SMALLEST_SCALE <= q.one_scale <= LARGEST_SCALE and q.one_scale == as_float32(q.one_scale)
    zero = q.quantize(torch.zeros(()))
    assert zero.item() == q.one_zero_point and q.dequantize(zero).item() == 0.0


@settings(max_examples=400, deadline=None)
@given(scheme=schemes(), ends=USUAL_ENDS, at=st.floats(0.0, 1.0))
def test_the_error_in_the_range_is_half_a_step(scheme: Scheme, ends: tuple[float, float], at: float) -> None:
    q = choose_qparams([ends[0]], [ends[1]], scheme)
    x = np.float32(ends[0] + at * (ends[1] - ends[0]))
    code = q.quantize(torch.tensor(float(x))).item()
    error = abs(Fraction(q.one_scale) * (int(code) - q.one_zero_point) - Fraction(float(x)))
    # float32's own roundings, of the scale and of the quotient, count once each over the whole range.
    roundings = Fraction(scheme.qmax - scheme.qmin + 1, 1 << 22)
    assert error <= Fraction(q.one_scale) * (Fraction(1, 2) + roundings)


@settings(max_examples=300, deadline=None)
@given(scheme=schemes(), ends=USUAL_ENDS)
def test_the_scale_is_no_larger_than_needed(scheme: Scheme, ends: tuple[float, float]) -> None:
    low, high = min(ends[0], 0.0), max(ends[1], 0.0)
    q = choose_qparams([low], [high], scheme)
    if low == high:
        assert q.one_scale == 1.0
        return
    if scheme.symmetric:
        middle = 0 if scheme.qmin < 0 else (scheme.qmin + scheme.qmax + 1) // 2
        assert q.one_zero_point == middle
        needed = Fraction(high) / (scheme.qmax - middle)
        if middle > scheme.qmin:
            needed = max(needed, -Fraction(low) / (middle - scheme.qmin))
    else:
        needed = (Fraction(high) - Fraction(low)) / (scheme.qmax - scheme.qmin)
    assume(Fraction(SMALLEST_SCALE) <= needed <= Fraction(LARGEST_SCALE))
    assert abs(Fraction(q.one_scale) - needed) <= needed / (1 << 23)


@settings(max_examples=100, deadline=None)
@given(scheme=schemes(), ends=st.lists(ENDS, min_size=1, max_size=5))
def test_per_channel_is_per_tensor_for_each_channel(scheme: Scheme, ends: list[tuple[float, float]]) -> None:
    lows, highs = [low for low, _ in ends], [high for _, high in ends]
    channels = choose_qparams(lows, highs, scheme.with_(axis=1))
    x = torch.linspace(-3, 3, 7)[:, None] * torch.tensor(highs)[None, :].clamp(-1e30, 1e30)
    codes = channels.quantize(x)
    for index, (low, high) in enumerate(ends):
        one = choose_qparams([low], [high], scheme)
        assert (channels.scale[index], channels.zero_point[index]) == (one.one_scale, one.one_zero_point)
        assert torch.equal(codes[:, index], one.quantize(x[:, index]))
        assert torch.equal(channels.dequantize(codes)[:, index], one.dequantize(codes[:, index]))


def test_ranges_beyond_the_scales_we_allow() -> None:
    tiny = choose_qparams([-(2.0**-149)], [2.0**-140], Scheme())
    assert tiny.one_scale == SMALLEST_SCALE and tiny.quantize(torch.tensor(2.0**-140)).item() == tiny.one_zero_point
    most = float(torch.finfo(torch.float32).max)
    huge = choose_qparams([-most], [most], Scheme())
    assert huge.one_scale == LARGEST_SCALE
    assert huge.quantize(torch.tensor([most, -most, math.inf, -math.inf])).tolist() == [127, -128, 127, -128]
    assert huge.dequantize(torch.tensor([-128, 127], dtype=torch.int8)).isfinite().all()


def test_known_answers() -> None:
    affine = choose_qparams([-1.0], [3.0], Scheme(-128, 127))
    assert affine.one_scale == as_float32(4 / 255) and affine.one_zero_point == -64
    assert choose_qparams([0.0], [255.0], Scheme(0, 255)) == QParams((1.0,), (0,), 0, 255)
    assert choose_qparams([-128.0], [255.0], Scheme(-128, 255)) == QParams((1.0,), (0,), -128, 255)
    assert choose_qparams([-2.0], [127.0], Scheme(-127, 127, symmetric=True)) == QParams((1.0,), (0,), -127, 127)
    assert choose_qparams([-128.0], [1.0], Scheme(0, 255, symmetric=True)) == QParams((1.0,), (128,), 0, 255)
    assert choose_qparams([2.0], [255.0], Scheme(0, 255)) == QParams((1.0,), (0,), 0, 255)
    assert choose_qparams([-255.0], [-3.0], Scheme(0, 255)) == QParams((1.0,), (255,), 0, 255)


@pytest.mark.parametrize("bad", [math.nan, math.inf, -math.inf])
def test_a_range_that_is_not_finite_is_refused(bad: float) -> None:
    with pytest.raises(SchemeError, match="not finite"):
        choose_qparams([bad], [1.0], Scheme())
    with pytest.raises(SchemeError, match="not finite"):
        choose_qparams([-1.0], [bad], Scheme())


def test_malformed_requests_are_refused() -> None:
    with pytest.raises(SchemeError, match="is empty: low must not be above high"):
        choose_qparams([2.0], [1.0], Scheme())
    with pytest.raises(SchemeError, match="a per-tensor scheme takes one range, got 2"):
        choose_qparams([0.0, 0.0], [1.0, 1.0], Scheme())
    with pytest.raises(SchemeError, match="per channel; one scale"):
        _ = choose_qparams([0.0], [1.0], Scheme(axis=0)).one_scale
    with pytest.raises(SchemeError, match="per channel; one zero point"):
        _ = choose_qparams([0.0], [1.0], Scheme(axis=0)).one_zero_point
    for low, high, message in (
        (3, 3, "empty integer range"),
        (-1, 40000, "fits none of"),
        (-200, 65535, "fits none of"),
    ):
        with pytest.raises(SchemeError, match=message):
            Scheme(low, high)
    with pytest.raises(SchemeError, match="needs zero inside"):
        Scheme(-128, 0, symmetric=True)
    with pytest.raises(SchemeError, match="codes on both sides of zero"):
        Scheme(0, 1, symmetric=True)
