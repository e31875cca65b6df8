"""Packed integers are the integers, in any layout, and the primitive that unpacks them says the same as numpy."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from fxquant.packing import pack, packed_bytes, stored_bits, unpack

fxq = torch.ops.fxq


@settings(max_examples=60, deadline=None)
@given(
    bits=st.sampled_from([2, 4]),
    lanes=st.sampled_from([1, 4, 16]),
    shape=st.tuples(st.integers(1, 3), st.integers(0, 70)),
    seed=st.integers(0, 99),
)
def test_packed_integers_come_back(bits: int, lanes: int, shape: tuple[int, int], seed: int) -> None:
    values = np.random.default_rng(seed).integers(-(1 << bits - 1), 1 << bits - 1, shape).astype(np.int8)
    packed = pack(values, bits, lanes)
    assert packed.dtype == np.uint8 and packed.shape == (shape[0], packed_bytes(shape[1], bits, lanes))
    np.testing.assert_array_equal(unpack(packed, bits, shape[1], lanes), values)
    flat = pack(values.reshape(-1), bits)
    assert torch.equal(fxq.unpack(torch.from_numpy(flat), bits, list(shape)), torch.from_numpy(values))


def test_the_layout_is_what_it_says() -> None:
    """The first element is uppermost; with lanes, neighbours are in neighbouring bytes."""
    assert pack(np.array([1, 2, -1]), 4).tolist() == [0x12, 0xF0]
    assert pack(np.arange(8) % 8 - 4, 4, 4).tolist() == [0xC0, 0xD1, 0xE2, 0xF3]
    assert pack(np.array([1, -1, 0, -2, 1]), 2).tolist() == [0b01110010, 0b01000000]


def test_what_does_not_fit_is_refused() -> None:
    with pytest.raises(ValueError, match="integers from -8 to 8 do not fit 4 bits"):
        pack(np.array([-8, 8]), 4)
    for packed, bits, shape in (
        (torch.zeros(3, dtype=torch.uint8), 4, [7]),
        (torch.zeros(3, dtype=torch.int8), 4, [6]),
        (torch.zeros(6, dtype=torch.uint8), 8, [6]),
    ):
        with pytest.raises(ValueError, match=r"cannot be unpacked|do not hold"):
            fxq.unpack(packed.to("meta"), bits, shape)


@pytest.mark.parametrize(("bits", "stored"), [(1, 2), (2, 2), (3, 4), (4, 4), (5, 8), (8, 8)])
def test_what_a_number_takes(bits: int, stored: int) -> None:
    assert stored_bits(bits) == stored
