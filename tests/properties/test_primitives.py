"""Rescaling and its neighbours against unbounded integers: extremes, ties, all ranges."""

from __future__ import annotations

import math
from fractions import Fraction
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.ops.fixed_point import encode
from fxquant.primitives import PRIMITIVES
from fxquant.primitives.registry import storage
from tests.properties import exact
from tests.properties.calling import RANGES, SEEDS, call, codes, same

S32 = st.one_of(
    st.integers(-(1 << 31), (1 << 31) - 1),
    st.sampled_from([0, 1, -1, (1 << 31) - 1, -(1 << 31), 1 << 30, -(1 << 30), 255, -255]),
)
MULTIPLIERS = st.one_of(st.integers(0, (1 << 31) - 1), st.sampled_from([0, 1, 1 << 30, (1 << 31) - 1]))
SIGNED = st.one_of(MULTIPLIERS, MULTIPLIERS.map(lambda m: -m))


def test_every_primitive_is_held_to_a_model() -> None:
    source = "".join(path.read_text(encoding="utf-8") for path in Path(__file__).parent.glob("test_primitives*.py"))
    assert not [name for name in PRIMITIVES if f'call("{name}"' not in source]


@settings(max_examples=80, deadline=None)
@given(data=st.data(), bits=st.sampled_from((4, 2)), shape=st.lists(st.integers(0, 5), max_size=4))
def test_unpack(data: st.DataObject, bits: int, shape: list[int]) -> None:
    """All bytes are one big-endian number, and the elements its digits from the top, in two's complement."""
    elements, parts = math.prod(shape), 8 // bits
    packed = data.draw(st.binary(min_size=-(-elements // parts), max_size=-(-elements // parts)))
    found = call("unpack", torch.tensor(list(packed), dtype=torch.uint8), bits, shape)
    number, top = int.from_bytes(packed, "big"), 8 * len(packed) - bits
    digits = [(number >> (top - bits * place)) % (1 << bits) for place in range(elements)]
    wanted = [digit - (1 << bits) if digit >> (bits - 1) else digit for digit in digits]
    assert found.dtype is torch.int8
    same(found, np.array(wanted, np.int64).reshape(shape))


@settings(max_examples=120, deadline=None)
@given(data=st.data(), span=st.sampled_from(RANGES), shift=st.integers(0, 30), zero_in=st.integers(-32768, 32767))
def test_requantize(data: st.DataObject, span: tuple[int, int], shift: int, zero_in: int) -> None:
    zero = data.draw(st.integers(*span))
    # The operand is either accumulators with no zero point, or codes of up to 16 bits with one.
    acc = data.draw(st.lists(S32 if zero_in == 0 else st.integers(-32768, 32767), min_size=1, max_size=6))
    multiplier = data.draw(MULTIPLIERS)
    found = call(
        "requantize",
        torch.tensor(acc, dtype=torch.int32),
        torch.tensor([multiplier], dtype=torch.int32),
        shift,
        zero_in,
        zero,
        *span,
    )
    wanted = [
        exact.clamp(exact.round_half_up(exact.rescale(a - zero_in, multiplier, shift)) + zero, *span) for a in acc
    ]
    assert found.dtype is storage(*span)
    same(found, wanted)


@pytest.mark.parametrize("odd", [-5, -3, -1, 1, 3, 5])
def test_ties_go_up(odd: int) -> None:
    half = torch.tensor([1 << 30], dtype=torch.int32)  # one quarter
    found = call("requantize", torch.tensor([2 * odd], dtype=torch.int32), half, 0, 0, 0, -128, 127)
    assert found.item() == math.floor(odd / 2 + 0.5)
    twice = torch.tensor([1 << 29], dtype=torch.int32)
    both = call("add", *(torch.tensor([odd], dtype=torch.int32), twice, 1, 0) * 2, 0, -128, 127)
    assert both.item() == math.floor(odd / 2 + 0.5)


def test_a_multiplier_per_channel_and_per_element() -> None:
    acc = torch.arange(-12, 12, dtype=torch.int32).reshape(1, 2, 3, 4) * 1000
    for shape in ((1, 2, 1, 1), (1, 1, 3, 4), (1,)):
        multiplier = torch.arange(1, 1 + math.prod(shape), dtype=torch.int32).reshape(shape) << 24
        found = call("requantize", acc, multiplier, 3, 0, 5, -128, 127)
        wanted = exact.each(
            lambda a, m: exact.clamp(exact.round_half_up(exact.rescale(a, m, 3)) + 5, -128, 127),
            acc.numpy(),
            multiplier.numpy(),
        )
        same(found, wanted)


@settings(max_examples=120, deadline=None)
@given(data=st.data(), span=st.sampled_from(RANGES), shifts=st.tuples(st.integers(0, 30), st.integers(0, 30)))
def test_add(data: st.DataObject, span: tuple[int, int], shifts: tuple[int, int]) -> None:
    """One rounding for both terms; each may be an accumulator, a negative multiplier subtracts."""
    zero = data.draw(st.integers(*span))
    terms = [(data.draw(S32), data.draw(SIGNED), shift) for shift in shifts]
    arguments: list[Any] = []
    for acc, multiplier, shift in terms:
        arguments += [torch.tensor([acc], dtype=torch.int32), torch.tensor([multiplier], dtype=torch.int32), shift, 0]
    found = call("add", *arguments, zero, *span)
    # A shifted term saturates at 2^29 steps: so that two of them may not cancel beyond that.
    steps = [exact.rescale(*term) for term in terms]
    limited = [
        max(-Fraction(1 << 29), min(Fraction(1 << 29), s)) if t[2] else s for s, t in zip(steps, terms, strict=True)
    ]
    same(found, [exact.clamp(exact.round_half_up(sum(limited, Fraction())) + zero, *span)])


@settings(max_examples=100, deadline=None)
@given(scales=st.lists(st.floats(1e-12, 1e8), min_size=1, max_size=3))
def test_encoded_scales_are_as_exact_as_31_bits_allow(scales: list[float]) -> None:
    shift, multipliers = encode(*(torch.tensor([s], dtype=torch.float64) for s in scales))
    largest = max(scales)
    for scale, multiplier in zip(scales, multipliers, strict=True):
        real = Fraction(int(multiplier)) * 2**shift / 2**32
        assert 0 <= int(multiplier) < 1 << 31
        assert abs(real - Fraction(scale)) <= Fraction(2**shift, 2**33) + (
            Fraction(1, 2**31) if scale == largest else 0
        )
    assert shift == 0 or largest * 2.0 ** (32 - shift + 1) >= (1 << 31) - 1


@settings(max_examples=100, deadline=None)
@given(span=st.sampled_from(RANGES), seed=SEEDS, scale=st.floats(2.0**-60, 2.0**60, width=32))
def test_quantize_and_dequantize(span: tuple[int, int], seed: int, scale: float) -> None:
    rng = np.random.default_rng(seed)
    zero = int(rng.integers(span[0], span[1] + 1))
    x = (rng.normal(size=20) * scale * 200).astype(np.float32)
    x[:5] = [math.inf, -math.inf, math.nan, 0.0, 1e38]
    found = call("quantize", torch.from_numpy(x), scale, zero, *span)
    with np.errstate(over="ignore", invalid="ignore"):
        steps = np.rint(x / np.float32(scale)).astype(np.float64)
    steps[2] = 0.0
    same(found, np.clip(np.clip(steps, -1e9, 1e9) + zero, *span).astype(np.int64))
    back = call("dequantize", found, scale, zero)
    same(back, (found.numpy().astype(np.int64) - zero).astype(np.float32) * np.float32(scale))


def test_dequantize_channels() -> None:
    weight = torch.tensor([[-127, 5], [3, 127]], dtype=torch.int8)
    scale = torch.tensor([0.5, 0.1])
    same(call("dequantize_channels", weight, scale, 0), weight.numpy() * scale.numpy()[:, None])
    same(call("dequantize_channels", weight, scale, 1), weight.numpy() * scale.numpy()[None, :])


@settings(max_examples=50, deadline=None)
@given(span=st.sampled_from(RANGES), seed=SEEDS)
def test_lookup(span: tuple[int, int], seed: int) -> None:
    rng = np.random.default_rng(seed)
    table = codes(rng, (span[1] - span[0] + 1,), (-128, 127))
    x = codes(rng, (3, 7), span)
    same(call("lookup", x, table, span[0]), table.numpy()[x.numpy().astype(int) - span[0]])


@settings(max_examples=60, deadline=None)
@given(span=st.sampled_from(RANGES), step=st.integers(0, 8), seed=SEEDS)
def test_curve(span: tuple[int, int], step: int, seed: int) -> None:
    """Between two knots a line, cut off downwards; the fraction of the knots is rounded once."""
    rng = np.random.default_rng(seed)
    low, last = -32768, 999
    knots = rng.integers(-(1 << 21), 1 << 21, (last >> step) + 2)
    x = low + np.concatenate([[0, last], rng.integers(0, last + 1, 10)])
    found = call("curve", torch.tensor(x, dtype=torch.int16), torch.tensor(knots, dtype=torch.int32), low, step, *span)

    def one(code: int) -> int:
        place, share = divmod(code - low, 1 << step)
        line = knots[place] + math.floor(Fraction(int(knots[place + 1] - knots[place]) * share, 1 << step))
        return exact.clamp(exact.round_half_up(Fraction(int(line), 64)), *span)

    same(found, [one(int(code)) for code in x])


@settings(max_examples=40, deadline=None)
@given(rows=st.lists(st.integers(1, 4), min_size=1, max_size=4), seed=st.integers(0, 1 << 16))
def test_join(rows: list[int], seed: int) -> None:
    generator = torch.Generator().manual_seed(seed)
    parts = [torch.randn(2, count, 3, generator=generator) for count in rows]
    for dim in (1, -2):
        found = call("join", parts, dim)
        assert found.dtype is torch.float32
        assert found.tolist() == [[row for part in parts for row in part[n].tolist()] for n in range(2)]
