"""Ranges of run time against numpy's float32, one operation at a time."""

from __future__ import annotations

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.primitives.registry import storage
from fxquant.qparams import LARGEST_SCALE, SMALLEST_SCALE
from tests.properties.calling import SEEDS, call, codes, same

SPECIALS = np.array([np.nan, np.inf, -np.inf, 3e38, -3e38, 1e-45, -0.0, 0.0], np.float32)
AMPLITUDES = st.sampled_from([1.0, 1e-30, 1e30, 37.5, 0.0])


def _floats(seed: int, amplitude: float, specials: bool) -> Tensor:
    rng = np.random.default_rng(seed)
    values = (rng.standard_normal((3, 4, 5)) * amplitude).astype(np.float32)
    if specials:
        values.reshape(-1)[rng.integers(0, values.size, len(SPECIALS))] = SPECIALS
    return torch.from_numpy(values)


def _scales(x: Tensor, levels: int) -> list[np.float32]:
    found = []
    for sample in x.numpy():
        known = np.abs(sample[~np.isnan(sample)])
        found.append(np.clip(known.max() / np.float32(levels), np.float32(SMALLEST_SCALE), np.float32(LARGEST_SCALE)))
    return found


@settings(max_examples=80, deadline=None)
@given(seed=SEEDS, amplitude=AMPLITUDES, specials=st.booleans(), levels=st.sampled_from([127, 255, 7, 32767]))
def test_the_largest_magnitude_of_a_sample_becomes_all_levels(
    seed: int, amplitude: float, specials: bool, levels: int
) -> None:
    x = _floats(seed, amplitude, specials)
    found = call("dynamic_scale", x, levels)
    same(found, np.array(_scales(x, levels)))
    alone = call("dynamic_scale", x[1:2], levels)
    same(alone, found[1:2].numpy())


@settings(max_examples=80, deadline=None)
@given(
    seed=SEEDS,
    amplitude=AMPLITUDES,
    specials=st.booleans(),
    span=st.sampled_from([(-128, 127, -128), (-127, 127, 0), (-8, 7, -8), (-32767, 32767, 0)]),
)
def test_quantize_and_back(seed: int, amplitude: float, specials: bool, span: tuple[int, int, int]) -> None:
    low, high, zero = span
    x = _floats(seed, amplitude, specials)
    scale = call("dynamic_scale", x, high - zero)
    found = call("quantize_dynamic", x, scale, zero, low, high)
    assert found.dtype is storage(low, high)
    for sample, s, codes_found in zip(x.numpy(), scale.numpy(), found.numpy(), strict=True):
        with np.errstate(all="ignore"):
            steps = np.rint(sample * (np.float32(1.0) / s))
        wanted = np.clip(np.where(np.isnan(steps), np.float32(0.0), steps) + np.float32(zero), low, high)
        assert codes_found.tolist() == wanted.astype(np.int64).tolist()
        assert (codes_found[np.isnan(sample)] == zero).all()
    back = call("dequantize_dynamic", found, scale, zero)
    same(back, (found.numpy().astype(np.int32) - zero).astype(np.float32) * scale.numpy()[:, None, None])
    inside = torch.isfinite(x) & (x >= 0 if zero == low else torch.ones_like(x, dtype=torch.bool))
    error = (back - x).abs() / scale[:, None, None]
    assert bool((error[inside & (scale > SMALLEST_SCALE)[:, None, None]] <= 0.502).all() or specials)


@settings(max_examples=80, deadline=None)
@given(seed=SEEDS, spread=st.sampled_from([100, 1 << 20, (1 << 31) - 1]))
def test_accumulators_are_scaled_with_one_rounding_each_time(seed: int, spread: int) -> None:
    rng = np.random.default_rng(seed)
    acc = rng.integers(-spread, spread, (2, 3, 4)).astype(np.int32)
    factor, bias = (rng.standard_normal((1, 3, 1)).astype(np.float32) for _ in range(2))
    scale = rng.random(2).astype(np.float32)
    found = call("rescale_real", *(torch.from_numpy(a) for a in (acc, factor, scale, bias)))
    same(found, acc.astype(np.float32) * (factor * scale[:, None, None]) + bias)


def test_a_range_without_numbers_has_the_smallest_scale() -> None:
    x = torch.full((1, 4), torch.nan)
    scale = call("dynamic_scale", x, 127)
    assert scale.item() == SMALLEST_SCALE
    assert call("quantize_dynamic", x, scale, 0, -127, 127).tolist() == [[0] * 4]
    assert (
        call("quantize_dynamic", codes(np.random.default_rng(0), (1, 4), (-1, 1)).float(), scale, 0, -127, 127)
        .abs()
        .max()
        <= 127
    )
