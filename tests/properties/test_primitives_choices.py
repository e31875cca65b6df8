"""PReLU, quotients and comparisons: equal to a model in unbounded integers."""

from __future__ import annotations

from fractions import Fraction

import numpy as np
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.properties import exact
from tests.properties.calling import RANGES, SEEDS, call, codes, same

MULTIPLIERS = st.one_of(st.integers(-(1 << 31) + 1, (1 << 31) - 1), st.sampled_from([0, 1, -1, 1 << 30]))
SHIFTS = st.integers(0, 30)
EDGE = 1 << 61


def _scaled(q: int, multiplier: int, shift: int) -> int:
    """The product before rounding, which saturates where it is shifted."""
    bound = EDGE >> shift
    return max(-bound, min(bound, q * multiplier)) << shift if shift else q * multiplier


@settings(max_examples=80, deadline=None)
@given(data=st.data(), span=st.sampled_from(RANGES), shift=SHIFTS, seed=SEEDS)
def test_prelu(data: st.DataObject, span: tuple[int, int], shift: int, seed: int) -> None:
    x = codes(np.random.default_rng(seed), (2, 3, 5), span)
    zeros = [data.draw(st.integers(*span)) for _ in range(2)]
    above = data.draw(MULTIPLIERS)
    below = data.draw(st.lists(MULTIPLIERS, min_size=3, max_size=3))
    factors = torch.tensor([above], dtype=torch.int32), torch.tensor(below, dtype=torch.int32).reshape(1, 3, 1)
    found = call("prelu", x, *factors, shift, *zeros, *span)

    def one(q: int, channel: int) -> int:
        centred = q - zeros[0]
        product = _scaled(centred, above if centred >= 0 else below[channel], shift)
        return exact.clamp(exact.round_half_up(Fraction(product, 1 << 32)) + zeros[1], *span)

    same(found, exact.each(one, x.numpy(), np.arange(3).reshape(1, 3, 1)))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), span=st.sampled_from(RANGES), other=st.sampled_from(RANGES), shift=SHIFTS, seed=SEEDS)
def test_div(data: st.DataObject, span: tuple[int, int], other: tuple[int, int], shift: int, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = codes(rng, (2, 4, 3), span), codes(rng, data.draw(st.sampled_from([(2, 4, 3), (4, 1), (2, 1, 3)])), other)
    a_zero, b_zero, zero = (data.draw(st.integers(*ends)) for ends in (span, other, span))
    b.view(-1)[0] = b_zero  # a divisor of zero counts as one step
    multiplier = data.draw(MULTIPLIERS)
    found = call("div", a, a_zero, b, b_zero, torch.tensor([multiplier], dtype=torch.int32), shift, zero, *span)

    def one(p: int, q: int) -> int:
        quotient = Fraction(_scaled(p - a_zero, multiplier, shift), (q - b_zero) or 1)
        return exact.clamp(exact.round_half_up(Fraction(int(quotient), 1 << 32)) + zero, *span)

    same(found, exact.each(one, a.numpy(), b.numpy()))


@settings(max_examples=80, deadline=None)
@given(data=st.data(), span=st.sampled_from(RANGES), shift=st.integers(0, 3), equal=st.booleans(), seed=SEEDS)
def test_above(data: st.DataObject, span: tuple[int, int], shift: int, equal: bool, seed: int) -> None:
    rng = np.random.default_rng(seed)
    a, b = codes(rng, (2, 4, 3), span), codes(rng, (4, 1), span)
    zeros, factors = [data.draw(st.integers(*span)) for _ in range(2)], [data.draw(MULTIPLIERS) for _ in range(2)]
    if data.draw(st.booleans()):  # values of one scale are equal where their integers are
        zeros[1], factors[1] = zeros[0], factors[0]
    tensors = [torch.tensor([m], dtype=torch.int32) for m in factors]
    found = call("above", a, tensors[0], zeros[0], b, tensors[1], zeros[1], shift, equal)

    def one(p: int, q: int) -> int:
        left, right = _scaled(p - zeros[0], factors[0], shift), _scaled(q - zeros[1], factors[1], shift)
        return int(left > right or (equal and left == right))

    same(found.int(), exact.each(one, a.numpy(), b.numpy()))
