"""Products, pooling and movement against plain loops: strides, dilation, groups, padding, borders, all ranges."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.properties import exact
from tests.properties.calling import RANGES, SEEDS, call, codes, same


@st.composite
def windows(draw: st.DrawFn) -> tuple[list[int], list[int], list[int], list[int]]:
    """Kernel, stride, padding, dilation for one or two axes."""
    dims = draw(st.sampled_from([1, 2]))
    kernel, stride, dilation = ([draw(st.integers(1, 3)) for _ in range(dims)] for _ in range(3))
    return kernel, stride, [draw(st.integers(0, 2)) for _ in range(dims)], dilation


@settings(max_examples=50, deadline=None)
@given(window=windows(), groups=st.integers(1, 3), span=st.sampled_from(RANGES), seed=SEEDS)
def test_conv(window: Any, groups: int, span: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    kernel, stride, padding, dilation = window
    spatial = [int(rng.integers((k - 1) * d + 1, 9)) for k, d in zip(kernel, dilation, strict=True)]
    x = codes(rng, (2, 2 * groups, *spatial), span)
    weight = codes(rng, (3 * groups, 2, *kernel), (-128, 127))
    bias = torch.from_numpy(rng.integers(-(1 << 24), 1 << 24, 3 * groups).astype(np.int32))
    zero = int(rng.integers(span[0], span[1] + 1))
    found = call("conv", x, weight, bias, zero, stride, padding, dilation, groups)
    wanted = exact.convolve(x.numpy().astype(np.int64) - zero, weight.numpy(), stride, padding, dilation, groups)
    same(found, wanted + bias.numpy().reshape(1, -1, *[1] * len(kernel)))
    same(call("conv", x, weight, None, zero, stride, padding, dilation, groups), wanted)


@settings(max_examples=50, deadline=None)
@given(window=windows(), groups=st.integers(1, 3), span=st.sampled_from(RANGES), seed=SEEDS)
def test_conv_transpose(window: Any, groups: int, span: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    kernel, stride, padding, dilation = window
    padding = [min(p, (k - 1) * d) for p, k, d in zip(padding, kernel, dilation, strict=True)]
    extra = [int(rng.integers(0, max(s, d))) for s, d in zip(stride, dilation, strict=True)]
    x = codes(rng, (2, 2 * groups, *(int(rng.integers(3, 6)) for _ in kernel)), span)
    weight = codes(rng, (2 * groups, 3, *kernel), (-128, 127))
    bias = torch.from_numpy(rng.integers(-(1 << 24), 1 << 24, 3 * groups).astype(np.int32))
    zero = int(rng.integers(span[0], span[1] + 1))
    found = call("conv_transpose", x, weight, bias, zero, stride, padding, extra, dilation, groups)
    centred = x.numpy().astype(np.int64) - zero
    wanted = exact.convolve_transposed(centred, weight.numpy(), stride, padding, extra, dilation, groups)
    same(found, wanted + bias.numpy().reshape(1, -1, *[1] * len(kernel)))


def test_sums_at_the_edge_of_the_accumulator() -> None:
    """float32 could not hold these; the largest is one below 2^31."""
    x, weight = torch.full((1, 65793), 127, dtype=torch.int8), torch.full((1, 65793), 127, dtype=torch.int8)
    reach = 65793 * 255 * 127
    assert call("linear", x, weight, None, -128).item() == reach < 1 << 31
    top = torch.tensor([(1 << 31) - 1 - reach], dtype=torch.int32)
    assert call("linear", x, weight, top, -128).item() == (1 << 31) - 1
    image = x.reshape(1, 65793, 1, 1)
    assert (
        call("conv", image, weight.reshape(1, 65793, 1, 1), top, -128, [1, 1], [0, 0], [1, 1], 1).item()
        == (1 << 31) - 1
    )


@settings(max_examples=60, deadline=None)
@given(spans=st.tuples(st.sampled_from(RANGES), st.sampled_from(RANGES[:5])), seed=SEEDS)
def test_linear_matmul_mul(spans: tuple[tuple[int, int], tuple[int, int]], seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = codes(rng, (2, 3, 5), spans[0]), codes(rng, (2, 5, 4), spans[1])
    zeros = [int(rng.integers(low, high + 1)) for low, high in spans]
    left, right = a.numpy().astype(np.int64) - zeros[0], b.numpy().astype(np.int64) - zeros[1]
    same(call("matmul", a, zeros[0], b, zeros[1]), left @ right)
    weight = codes(rng, (4, 5), (-128, 127))
    bias = torch.from_numpy(rng.integers(-1000, 1000, 4).astype(np.int32))
    same(call("linear", a, weight, bias, zeros[0]), left @ weight.numpy().astype(np.int64).T + bias.numpy())
    other = codes(rng, (3, 1), spans[1])
    same(call("mul", a, zeros[0], other, zeros[1]), left * (other.numpy().astype(np.int64) - zeros[1]))


@settings(max_examples=50, deadline=None)
@given(window=windows(), span=st.sampled_from(RANGES), seed=SEEDS, ceil=st.booleans())
def test_pooling(window: Any, span: tuple[int, int], seed: int, ceil: bool) -> None:
    rng = np.random.default_rng(seed)
    kernel, stride, padding, dilation = window
    padding = [min(p, k // 2) for p, k in zip(padding, kernel, strict=True)]
    spatial = [int(rng.integers((k - 1) * d + 1, 9)) for k, d in zip(kernel, dilation, strict=True)]
    x = codes(rng, (2, 2, *spatial), span)
    found = call("max_pool", x, kernel, stride, padding, dilation, ceil)
    wanted = exact.pool(x.numpy(), kernel, stride, padding, dilation, found.shape[2:], max)
    same(found, wanted)
    zero = int(rng.integers(span[0], span[1] + 1))
    sums = call("sum_pool", x, zero, kernel, stride, padding, ceil)
    plain = [1] * len(kernel)
    centred = x.numpy().astype(np.int64) - zero
    same(sums, exact.pool(centred, kernel, stride, padding, plain, sums.shape[2:], sum))


@settings(max_examples=60, deadline=None)
@given(sizes=st.lists(st.integers(1, 5), min_size=1, max_size=2), span=st.sampled_from(RANGES), seed=SEEDS)
def test_adaptive_pooling_and_sums(sizes: list[int], span: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    x = codes(rng, (2, 3, *(int(rng.integers(1, 9)) for _ in sizes)), span)
    zero = int(rng.integers(span[0], span[1] + 1))
    centred = x.numpy().astype(np.int64) - zero
    found = call("adaptive_sum_pool", x, zero, sizes)
    for at in np.ndindex(*sizes):
        cut = tuple(
            slice(math.floor(i * n / c), math.ceil((i + 1) * n / c))
            for i, n, c in zip(at, x.shape[2:], sizes, strict=True)
        )
        same(found[:, :, *at], centred[:, :, *cut].reshape(2, 3, -1).sum(-1))
    axes = tuple(range(1, x.ndim))
    for dims in (axes[-1:], axes[:1], axes):
        for keep in (False, True):
            same(call("sum_reduce", x, zero, list(dims), keep), centred.sum(dims, keepdims=keep))
            same(call("max_reduce", x, list(dims), keep), x.numpy().max(dims, keepdims=keep))
            same(call("min_reduce", x, list(dims), keep), x.numpy().min(dims, keepdims=keep))


@settings(max_examples=60, deadline=None)
@given(span=st.sampled_from(RANGES[:5]), seed=SEEDS, flat=st.booleans())
def test_resampling(span: tuple[int, int], seed: int, flat: bool) -> None:
    rng = np.random.default_rng(seed)
    x = codes(rng, (2, 3, 5) if flat else (2, 3, 4, 5), span)
    rows, columns = [] if flat else rng.integers(0, 4, 6).tolist(), rng.integers(0, 5, 7).tolist()
    picked = x.numpy()[..., columns] if flat else x.numpy()[..., rows, :][..., columns]
    same(call("upsample_nearest", x, rows, columns), picked)
    zero = int(rng.integers(span[0], span[1] + 1))
    tables = []
    for length, count in zip(x.shape[2:], (7, 6), strict=False):
        taps = int(rng.integers(1, 5))
        index = torch.from_numpy(rng.integers(0, length, (count, taps)).astype(np.int32))
        tables.append((index, torch.from_numpy(rng.integers(-200, 1025, (count, taps)).astype(np.int32))))
    found = call("interpolate", x, zero, [t[0] for t in tables], [t[1] for t in tables])
    wanted = x.numpy().astype(np.int64) - zero
    for axis, (index, weight) in enumerate(tables, start=2):
        shape = [-1 if a == axis else 1 for a in range(x.ndim)]
        places = range(index.shape[1])
        wanted = sum(wanted.take(index.numpy()[:, k], axis) * weight.numpy()[:, k].reshape(shape) for k in places)
    same(found, wanted)


def test_pad() -> None:
    x = torch.arange(-6, 6, dtype=torch.int8).reshape(1, 3, 4)
    same(call("pad", x, [1, 2, 0, 1], -9), np.pad(x.numpy(), [(0, 0), (0, 1), (1, 2)], constant_values=-9))
    same(call("pad", x, [-1, 1], 7), np.pad(x.numpy()[..., 1:], [(0, 0), (0, 0), (0, 1)], constant_values=7))
