"""Softmax and layer norm: equal to a model in unbounded integers, and close to the real functions."""

from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.primitives.normalize import floor_sqrt, inverse_sqrt
from tests.properties import exact
from tests.properties.calling import RANGES, SEEDS, call, codes, same


@settings(max_examples=200, deadline=None)
@given(
    value=st.one_of(st.integers(0, (1 << 62) - 1), st.integers(0, (1 << 31) - 1).map(lambda r: r * r)),
    step=st.integers(-1, 1),
)
def test_floor_sqrt_is_exact(value: int, step: int) -> None:
    value = min(max(value + step, 0), (1 << 62) - 1)
    assert floor_sqrt(torch.tensor([value])).item() == math.isqrt(value)


@settings(max_examples=200, deadline=None)
@given(value=st.one_of(st.integers(1, (1 << 62) - 1), st.integers(1, 5000), st.integers(0, 61).map(lambda k: 1 << k)))
def test_inverse_sqrt_is_exact_to_29_bits(value: int) -> None:
    mantissa, exponent = (int(t) for t in inverse_sqrt(torch.tensor([value])))
    assert 1 << 30 <= mantissa < 1 << 31
    found = Fraction(mantissa) * Fraction(2) ** (exponent - 61)
    error = abs(found * found * value - 1)  # twice the relative error
    assert error <= Fraction(1, 1 << 28)


@settings(max_examples=50, deadline=None)
@given(data=st.data(), length=st.integers(1, 300), scale=st.floats(1e-4, 2.0), seed=SEEDS)
def test_softmax(data: st.DataObject, length: int, scale: float, seed: int) -> None:
    """Equal to the model, and within half a step (and what the table's rounding adds) of the real function."""
    span = data.draw(st.sampled_from([(-128, 127), (0, 255), (-8, 7), (-32768, 32767)]))
    steps_of_one = data.draw(st.one_of(st.just(256.0), st.floats(1.0, 2.0**16)))
    one = round(steps_of_one * 2**32)
    x = codes(np.random.default_rng(seed), (2, length), (-128, 127))
    bits = min(23, 30 - math.ceil(math.log2(max(length, 2))))
    steps = torch.arange(256, dtype=torch.float64)
    table = torch.round(torch.exp(-scale * steps) * 2.0**bits).to(torch.int32)
    zero = data.draw(st.integers(*span))
    found = call("softmax", x, table, one, zero, *span)
    same(found, [exact.softmax_row(row, table.tolist(), one, zero, *span) for row in x.tolist()])
    real = torch.softmax(x.double() * scale, -1) * steps_of_one + zero
    # The quotient is cut by less than 1, which is of each of 2^b in a power.
    allowed = 0.5 + steps_of_one * (length + 1) * 2.0**-bits + 2.0 ** (bits - 32)
    assert bool(((found - real.clamp(*span)).abs() <= allowed).all())


@settings(max_examples=50, deadline=None)
@given(data=st.data(), length=st.integers(2, 200), span=st.sampled_from(RANGES), seed=SEEDS)
def test_layer_norm(data: st.DataObject, length: int, span: tuple[int, int], seed: int) -> None:
    """Equal to the model, and within half a step (and 2^-19 of gamma's) of the real function."""
    rng = np.random.default_rng(seed)
    x = codes(rng, (2, length), span) if data.draw(st.booleans()) else codes(rng, (2, 1), span).expand(2, length)
    low, high = data.draw(st.sampled_from([(-128, 127), (0, 255), (-32768, 32767)]))
    gamma, beta = rng.normal(size=length) * data.draw(st.floats(0.1, 500.0)), rng.normal(size=length) * 30
    epsilon, half = data.draw(st.sampled_from([0, 1, 1000, 1 << 40, 1 << 60])), data.draw(st.integers(0, 4))
    multiplier = torch.from_numpy(np.rint(gamma * 2**12).astype(np.int32))
    offset = torch.from_numpy(np.rint(beta * 2.0**32).astype(np.int64))
    found = call("layer_norm", x, multiplier, offset, epsilon, half, low, high)
    rows = [exact.layer_norm_row(r, multiplier.tolist(), offset.tolist(), epsilon, half, low, high) for r in x.tolist()]
    same(found, rows)
    wide = x.double()
    variance = (wide.var(-1, correction=0, keepdim=True) * length**2 + epsilon / 4**half).clamp(min=1.0)
    normal = (wide - wide.mean(-1, keepdim=True)) * length / variance.sqrt()
    real = (normal * torch.from_numpy(gamma) + torch.from_numpy(beta)).clamp(low, high)
    allowed = (
        0.51 + np.abs(gamma).max() * 2.0**-19 + float(normal.abs().max()) * (2.0**-12 + np.abs(gamma).max() * 2.0**-28)
    )
    assert bool(((found - real).abs() <= allowed).all())


@settings(max_examples=50, deadline=None)
@given(data=st.data(), length=st.integers(1, 200), span=st.sampled_from(RANGES), seed=SEEDS)
def test_rms_norm(data: st.DataObject, length: int, span: tuple[int, int], seed: int) -> None:
    """Equal to the model, and within half a step (and 2^-19 of gamma's) of the real function."""
    rng = np.random.default_rng(seed)
    x, zero = codes(rng, (2, length), span), data.draw(st.integers(*span))
    low, high = data.draw(st.sampled_from([(-128, 127), (0, 255), (-32768, 32767)]))
    gamma, beta = rng.normal(size=length) * data.draw(st.floats(0.1, 500.0)), float(rng.normal() * 30)
    epsilon, half = data.draw(st.sampled_from([0, 1, 1000, 1 << 40, 1 << 60])), data.draw(st.integers(0, 4))
    multiplier = torch.from_numpy(np.rint(gamma * 2**12).astype(np.int32))
    offset = torch.full((length,), round(beta * 2.0**32), dtype=torch.int64)
    found = call("rms_norm", x, zero, multiplier, offset, epsilon, half, low, high)
    constants = multiplier.tolist(), offset.tolist(), epsilon, half, low, high
    same(found, [exact.layer_norm_row([q - zero for q in row], *constants, total=0) for row in x.tolist()])
    wide = x.double() - zero
    square = ((wide * wide).sum(-1, keepdim=True) * length + epsilon / 4**half).clamp(min=1.0)
    normal = wide * length / square.sqrt()
    real = (normal * torch.from_numpy(gamma) + beta).clamp(low, high)
    allowed = (
        0.51 + np.abs(gamma).max() * 2.0**-19 + float(normal.abs().max()) * (2.0**-12 + np.abs(gamma).max() * 2.0**-28)
    )
    assert bool(((found - real).abs() <= allowed).all())


@settings(max_examples=50, deadline=None)
@given(data=st.data(), length=st.integers(1, 300), scale=st.floats(1e-3, 2.0), seed=SEEDS)
def test_log_sum(data: st.DataObject, length: int, scale: float, seed: int) -> None:
    """Equal to the model, and as near to the real logarithm as its table and the powers are."""
    span = data.draw(st.sampled_from([(-128, 127), (0, 255), (-8, 7)]))
    x, zero = codes(np.random.default_rng(seed), (2, length), span), data.draw(st.integers(*span))
    bits, fraction = min(23, 30 - math.ceil(math.log2(max(length, 2)))), data.draw(st.integers(0, 8))
    steps, unit = torch.arange(span[1] - span[0] + 1, dtype=torch.float64), 2.0**fraction / scale
    powers = torch.round(torch.exp(-scale * steps) * 2.0**bits).to(torch.int32)
    curve = torch.round(torch.log1p(torch.arange(257, dtype=torch.float64) / 256) * unit).to(torch.int32)
    numbers = zero, fraction, round(math.log(2.0) * unit), round((30 - bits) * math.log(2.0) * unit)
    found = call("log_sum", x, powers, curve, *numbers)
    same(found, [[exact.log_sum_row(row, powers.tolist(), curve.tolist(), *numbers)] for row in x.tolist()])
    real = torch.logsumexp((x.double() - zero) * scale, -1, keepdim=True)
    allowed = scale * (31 + 2) * 2.0**-fraction + length * 2.0**-bits + 4e-6
    assert bool(((found.double() / unit - real).abs() <= allowed).all())
