"""Recurrent layers: equal to a model in unbounded integers, and close to the real ones."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from fractions import Fraction
from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

import fxquant
from fxquant.ops.recurrent import factor, sigmoid_table
from tests.properties.calling import SEEDS, call, codes, same
from tests.properties.exact import clamp, round_half_up

S16 = (-32768, 32767)
TABLE = sigmoid_table()


def scaled(x: int, factor: Sequence[int]) -> int:
    return round_half_up(Fraction(x * factor[0], 2 ** factor[1]))


def sigmoid(total: int) -> int:
    """Between two entries of the table."""
    entry, rest = divmod(clamp(total, *S16) + 32768, 256)
    low, high = (int(TABLE[entry + k]) for k in (0, 1))
    return low + round_half_up(Fraction((high - low) * rest, 256))


def tanh(total: int) -> int:
    return 2 * sigmoid(total) - 32768


class Layer:
    """One direction in Python's integers; a step gives the new states."""

    def __init__(self, weight: Any, bias: Any, gate_scale: Any, state_scale: Any, fraction: int) -> None:
        self.weight, self.bias = weight.tolist(), bias.tolist()
        self.gate_scale, self.state_scale, self.fraction = gate_scale.tolist(), state_scale.tolist(), fraction

    def sums(self, codes: Sequence[int]) -> list[int]:
        return [
            sum(w * c for w, c in zip(r, codes, strict=True)) + b for r, b in zip(self.weight, self.bias, strict=True)
        ]

    def totals(self, gates: Sequence[int], sums: Sequence[int]) -> list[int]:
        rows = zip(gates, self.gate_scale, sums, self.state_scale, strict=True)
        return [round_half_up(Fraction(x * a + s * b, 2**self.fraction)) for x, a, s, b in rows]


def carried(kept: int, state: int, taken: int, new: int, carry: Sequence[int]) -> int:
    both = kept * state * 2 ** (carry[1] - 15) + taken * new * carry[0]
    return clamp(round_half_up(Fraction(both, 2 ** carry[1])), *S16)


def played(step: Callable[..., Any], gates: Any, states: Any, reverse: bool) -> list[Any]:
    """What `step` gives at all times, in the order of the sequence; it takes what comes in and the states before."""
    found = []
    for inputs, state in zip(gates.tolist(), states, strict=True):
        row: list[Any] = []
        for given_now in reversed(inputs) if reverse else inputs:
            state = step(given_now, state)
            row.append(state)
        found.append(row[::-1] if reverse else row)
    return found


def numbers(data: st.DataObject, gates: int, span: tuple[int, int]) -> tuple[Any, ...]:
    """(gates, hidden, weight, bias, gate_scale, state_scale, fraction, size, generator), scales up to all they hold."""
    rng = np.random.default_rng(data.draw(SEEDS))
    size, samples, time = data.draw(st.integers(1, 5)), data.draw(st.integers(1, 3)), data.draw(st.integers(1, 4))
    rows = gates * size
    fraction = data.draw(st.integers(30, 60))
    largest = data.draw(st.sampled_from([2**31 - 1, 2**24, 2**10]))
    scales = [torch.from_numpy(rng.integers(0, largest, rows, endpoint=True).astype(np.int32)) for _ in range(2)]
    weight = codes(rng, (rows, size), (-127, 127))
    bias = torch.from_numpy(rng.integers(-(2**20), 2**20, rows).astype(np.int32))
    hidden = codes(rng, (data.draw(st.sampled_from([1, samples])), size), span)
    return codes(rng, (samples, time, rows), S16), hidden, weight, bias, *scales, fraction, size, rng


PAIRS = st.tuples(st.integers(0, 2**31 - 1), st.integers(20, 60)).map(list)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), span=st.sampled_from([(-128, 127), (0, 255), S16]), reverse=st.booleans())
def test_lstm(data: st.DataObject, span: tuple[int, int], reverse: bool) -> None:
    gates, hidden, weight, bias, gate_scale, state_scale, fraction, size, rng = numbers(data, 4, span)
    cell, zero = codes(rng, tuple(hidden.shape), S16), data.draw(st.integers(*span))
    projection = projection_scale = None
    projection_fraction = data.draw(st.integers(1, 60))
    if data.draw(st.booleans()):
        width = data.draw(st.integers(1, size))
        weight, hidden = weight[:, :width], hidden[:, :width]
        projection = codes(rng, (width, size), (-127, 127))
        projection_scale = torch.from_numpy(rng.integers(0, 2**31 - 1, width, endpoint=True).astype(np.int32))
    carry = [data.draw(st.integers(0, 2**31 - 1)), data.draw(st.integers(20, 46))]
    bend, out = data.draw(PAIRS), data.draw(PAIRS)
    layer = Layer(weight, bias, gate_scale, state_scale, fraction)

    def step(x: Any, state: Any) -> Any:
        totals = layer.totals(x, layer.sums([h - zero for h in state[0]]))
        i, f, g, o = (totals[k * size : (k + 1) * size] for k in range(4))
        c = [carried(sigmoid(f[k]), state[1][k], sigmoid(i[k]), tanh(g[k]), carry) for k in range(size)]
        h = [scaled(sigmoid(o[k]) * tanh(scaled(c[k], bend)), out) for k in range(size)]
        if projection is not None and projection_scale is not None:
            sums = [sum(w * clamp(v, *S16) for w, v in zip(row, h, strict=True)) for row in projection.tolist()]
            each = zip(sums, projection_scale.tolist(), strict=True)
            h = [scaled(total, [m, projection_fraction]) for total, m in each]
        return [clamp(q + zero, *span) for q in h], c

    before = [(h, c) for h, c in zip(hidden.tolist(), cell.tolist(), strict=True)] * (len(gates) // len(hidden))
    wanted = played(step, gates, before, reverse)
    projected = projection, projection_scale, projection_fraction
    scales = gate_scale, state_scale, TABLE, *projected, fraction, zero, carry, bend, out
    given_all = gates, hidden, cell, weight, bias, *scales
    same(call("lstm", *given_all, reverse, *span), [[state[0] for state in row] for row in wanted])
    same(call("lstm_cells", *given_all, reverse, *span), [[state[1] for state in row] for row in wanted])


@settings(max_examples=60, deadline=None)
@given(data=st.data(), reverse=st.booleans())
def test_gru(data: st.DataObject, reverse: bool) -> None:
    gates, hidden, weight, bias, gate_scale, state_scale, fraction, size, _ = numbers(data, 3, S16)
    carry = [data.draw(st.integers(0, 2**31 - 1)), data.draw(st.integers(20, 46))]
    layer = Layer(weight, bias, gate_scale, state_scale, fraction)

    def step(x: Any, state: Any) -> Any:
        sums = layer.sums([clamp(round_half_up(Fraction(h, 256)), -128, 127) for h in state])
        totals, found = layer.totals(x, sums), []
        for k in range(size):
            reset, kept, row = sigmoid(totals[k]), sigmoid(totals[size + k]), 2 * size + k
            shown = math.floor(Fraction(sums[row] * layer.state_scale[row], 2**15)) * reset
            new = tanh(round_half_up(Fraction(x[row] * layer.gate_scale[row] + shown, 2**fraction)))
            found.append(carried(kept, state[k], 32768 - kept, new, carry))
        return found

    wanted = played(step, gates, hidden.tolist() * (len(gates) // len(hidden)), reverse)
    same(call("gru", gates, hidden, weight, bias, gate_scale, state_scale, TABLE, fraction, carry, reverse), wanted)


@settings(max_examples=60, deadline=None)
@given(data=st.data(), span=st.sampled_from([(-128, 127), (0, 255), S16]), relu=st.booleans(), reverse=st.booleans())
def test_rnn(data: st.DataObject, span: tuple[int, int], relu: bool, reverse: bool) -> None:
    gates, hidden, weight, bias, gate_scale, state_scale, fraction, *_ = numbers(data, 1, span)
    zero, out = data.draw(st.integers(*span)), data.draw(PAIRS)
    layer = Layer(weight, bias, gate_scale, state_scale, fraction)

    def step(x: Any, state: Any) -> Any:
        totals = layer.totals(x, layer.sums([h - zero for h in state]))
        found = [clamp(total, *S16) if relu else scaled(tanh(total), out) for total in totals]
        return [clamp(q + zero, *span) for q in found]

    wanted = played(step, gates, hidden.tolist() * (len(gates) // len(hidden)), reverse)
    given_all = gates, hidden, weight, bias, gate_scale, state_scale, TABLE, fraction, zero, out
    same(call("rnn", *given_all, relu, reverse, *span), wanted)


def test_curves_are_near_the_real_ones() -> None:
    """Sigmoid in units of 2^-12 and tanh in units of 2^-13, within 3 of 2^15 but for where they end."""
    totals = torch.arange(*S16)
    found = torch.tensor([sigmoid(int(t)) for t in totals[::7]], dtype=torch.float64)
    real = totals[::7].double() / 4096
    off = (found - torch.sigmoid(real) * 32768).abs()
    assert float(off[real.abs() < 7.9].max()) < 3 and float(off.max()) < 12
    assert float((2 * found - 32768 - torch.tanh(real / 2) * 32768).abs()[real.abs() < 7.9].max()) < 6


@pytest.mark.parametrize("scale", [1e-12, 3e-5, 0.5, 1.0, 900.0])
def test_factors_are_as_fine_as_they_can_be(scale: float) -> None:
    multiplier, fraction = factor(scale)
    assert multiplier < 2**31 and (fraction == 60 or multiplier >= 2**30)
    assert abs(multiplier / 2**fraction - scale) <= scale * 2.0**-20


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_a_long_memory_is_kept(kind: Any) -> None:
    """Steps smaller than one of 256 add up: a state of 8 bits would stay where it is."""
    torch.manual_seed(0)
    layer = kind(4, 16, batch_first=True).eval()
    data = [torch.randn(4, 30, 4) for _ in range(2)]
    with torch.no_grad():
        layer.bias_ih_l0[16:32] += 4.0  # of the gate that keeps
        quantized = fxquant.quantize(fxquant.trace(layer, data[0]), data, progress=False)
        real, mine = layer(data[0])[0], quantized(data[0])[0]
        assert float((real - mine).norm() / real.norm()) < 0.05
