"""Recurrent layers: one primitive for all steps of one direction of one layer.

    total = (gates[t] * gate_scale + (W @ (h - zero) + bias) * state_scale + 2^(F-1)) >> F,   clamped to 16 bits

is the pre-activation in units of 2^-12 for a sigmoid, of 2^-13 for a tanh. Both read one table of 257 entries, sigmoid
at -8, -8 + 1/16, ..., 8 with 15 fractional bits and straight lines between them; tanh(x) is 2 sigmoid(2x) - 1. Its
first and last entries are 0 and 1, what the function tends to, so that what is saturated stays so. States of 16 bits
(`cell` of an LSTM, `hidden` of a GRU) are symmetric. A pair [M, F] is a factor: (x * M + 2^(F-1)) >> F, one rounding,
in 64 bits.

`gates` s16 (N, T, rows), zero point 0; `weight` s8 (rows, H); `bias`, `gate_scale`, `state_scale` s32 (rows,). With
`reverse` time runs from the last step to the first. States before the first step have N rows, or one for all.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from math import prod

import torch
from torch import Tensor

from fxquant.primitives.registry import primitive, storage
from fxquant.recurrences import in_place, steps

# Sigmoids and hyperbolic tangents have so many fractional bits, and 1 / (entries of the table) is 2^-8 of its width.
GATE_FRACTION = 15
_ONE = 1 << GATE_FRACTION
_LOW, _HIGH = -(1 << 15), (1 << 15) - 1


def _cells(gates: Tensor, hidden: Tensor, cell: Tensor, *rest: object) -> Tensor:
    return gates.new_empty((*gates.shape[:2], cell.shape[-1]), dtype=torch.int16)


def _narrow_states(gates: Tensor, hidden: Tensor, *rest: object) -> Tensor:
    low, high = (int(n) for n in rest[-2:] if isinstance(n, int))
    return gates.new_empty((*gates.shape[:2], hidden.shape[-1]), dtype=storage(low, high))


def _wide_states(gates: Tensor, hidden: Tensor, *rest: object) -> Tensor:
    return gates.new_empty((*gates.shape[:2], hidden.shape[-1]), dtype=torch.int16)


def _by_step(result: Sequence[int], operands: Mapping[str, Sequence[int]]) -> int:
    """Every step takes all weights of the hidden state, and all of a projection."""
    return prod(result[:-1]) * sum(prod(operands[name]) for name in ("weight", "projection") if name in operands)


def scaled_down(x: Tensor, factor: Sequence[int]) -> Tensor:
    """x * M / 2^F, rounded, ties up: s64 for a product that 62 bits hold."""
    multiplier, fraction = factor
    return (x * multiplier + (1 << (fraction - 1))) >> fraction


def curve(total: Tensor, table: Tensor) -> Tensor:
    """Sigmoid of a pre-activation in units of 2^-12, 15 fractional bits."""
    place = total.clamp(_LOW, _HIGH) - _LOW
    entry, rest = place >> 8, place & 255
    return table[entry] + ((table[entry + 1] - table[entry]) * rest + 128 >> 8)


def _bent(total: Tensor, table: Tensor) -> Tensor:
    """Tanh of a pre-activation in units of 2^-13."""
    return 2 * curve(total, table) - _ONE


class _Layer:
    """The numbers of a layer, and its product with a hidden state."""

    def __init__(
        self, weight: Tensor, bias: Tensor, gate_scale: Tensor, state_scale: Tensor, table: Tensor, fraction: int
    ) -> None:
        self.weight, self.bias = weight.double().T, bias.to(torch.int64)
        self.gate_scale, self.state_scale = gate_scale.to(torch.int64), state_scale.to(torch.int64)
        self.table, self.fraction = table.to(torch.int64), fraction

    def sums(self, hidden: Tensor) -> Tensor:
        """Accumulators of all rows, exact."""
        return (hidden.double() @ self.weight).to(torch.int64) + self.bias

    def total(self, gates: Tensor, sums: Tensor) -> Tensor:
        """Pre-activations of all rows, not clamped yet."""
        product = gates.to(torch.int64) * self.gate_scale + sums * self.state_scale
        return (product + (1 << (self.fraction - 1))) >> self.fraction


def _carried(kept: Tensor, state: Tensor, taken: Tensor, new: Tensor, carry: Sequence[int]) -> Tensor:
    """kept * state + taken * new: gates and `new` with 15 fractional bits, the state in its own steps."""
    multiplier, fraction = carry
    total = kept * state * (1 << (fraction - GATE_FRACTION)) + taken * new * multiplier
    return ((total + (1 << (fraction - 1))) >> fraction).clamp(_LOW, _HIGH)


def _lstm(
    gates: Tensor, hidden: Tensor, cell: Tensor, layer: _Layer, projection: Tensor | None,
    projection_scale: Tensor | None, projection_fraction: int, zero_point: int, carry: Sequence[int],
    bend: Sequence[int], out: Sequence[int], reverse: bool, qmin: int, qmax: int,
) -> tuple[Tensor, Tensor]:  # fmt: skip
    """Hidden and cell states of all steps."""
    outputs, states = [], []
    h, c = hidden.to(torch.int64), cell.to(torch.int64)
    for t in steps(gates.shape[1], reverse):
        total = layer.total(gates[:, t], layer.sums(h - zero_point))
        i, f, g, o = total.chunk(4, -1)
        taken, kept, shown = (curve(x, layer.table) for x in (i, f, o))
        c = _carried(kept, c, taken, _bent(g, layer.table), carry)
        h = scaled_down(shown * _bent(scaled_down(c, bend), layer.table), out)
        if projection is not None and projection_scale is not None:
            sums = (h.clamp(_LOW, _HIGH).double() @ projection.double().T).to(torch.int64)
            product = sums * projection_scale.to(torch.int64)
            h = (product + (1 << (projection_fraction - 1))) >> projection_fraction
        h = (h + zero_point).clamp(qmin, qmax)
        outputs.append(h)
        states.append(c)
    return in_place(outputs, reverse), in_place(states, reverse)


@primitive(_narrow_states, macs=_by_step)
def lstm(
    gates: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor, bias: Tensor, gate_scale: Tensor,
    state_scale: Tensor, table: Tensor, projection: Tensor | None, projection_scale: Tensor | None,
    projection_fraction: int, fraction: int, zero_point: int, carry: list[int], bend: list[int], out: list[int],
    reverse: bool, qmin: int, qmax: int,
) -> Tensor:  # fmt: skip
    """Hidden states h = o * tanh(c) of an LSTM with c = f * c + i * g, rows (i, f, g, o).

    `hidden` and the result have `zero_point`, `cell` is s16. `carry` takes i * g to steps of the cell state, `bend` a
    cell state to units of 2^-13, `out` o * tanh(c) to steps of the hidden state. With a `projection` s8 (P, H), `out`
    takes it to 16 bits, and the hidden state are the sums of the projection times `projection_scale` (P,).
    """
    layer = _Layer(weight, bias, gate_scale, state_scale, table, fraction)
    projected = projection, projection_scale, projection_fraction
    found, _ = _lstm(gates, hidden, cell, layer, *projected, zero_point, carry, bend, out, reverse, qmin, qmax)
    return found.to(storage(qmin, qmax))


@primitive(_cells)
def lstm_cells(
    gates: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor, bias: Tensor, gate_scale: Tensor,
    state_scale: Tensor, table: Tensor, projection: Tensor | None, projection_scale: Tensor | None,
    projection_fraction: int, fraction: int, zero_point: int, carry: list[int], bend: list[int], out: list[int],
    reverse: bool, qmin: int, qmax: int,
) -> Tensor:  # fmt: skip
    """The cell states c of the same, s16."""
    layer = _Layer(weight, bias, gate_scale, state_scale, table, fraction)
    projected = projection, projection_scale, projection_fraction
    _, found = _lstm(gates, hidden, cell, layer, *projected, zero_point, carry, bend, out, reverse, qmin, qmax)
    return found.to(torch.int16)


@primitive(_wide_states, macs=_by_step)
def gru(
    gates: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, gate_scale: Tensor, state_scale: Tensor,
    table: Tensor, fraction: int, carry: list[int], reverse: bool,
) -> Tensor:  # fmt: skip
    """Hidden states h = (1 - z) * n + z * h of a GRU, s16, rows (r, z, n); n = tanh(gates + r * (W @ h + bias)).

    Products take the upper 8 bits of the hidden state, rounded. `carry` takes (1 - z) * n to its steps.
    """
    layer = _Layer(weight, bias, gate_scale, state_scale, table, fraction)
    size, h, found = hidden.shape[-1], hidden.to(torch.int64), []
    for t in steps(gates.shape[1], reverse):
        x, sums = gates[:, t].to(torch.int64), layer.sums(((h + 128) >> 8).clamp(-128, 127))
        r, z = curve(layer.total(x, sums)[:, : 2 * size], layer.table).chunk(2, -1)
        shown = (sums * layer.state_scale >> GATE_FRACTION)[:, 2 * size :] * r
        total = x[:, 2 * size :] * layer.gate_scale[2 * size :] + shown + (1 << (fraction - 1))
        h = _carried(z, h, _ONE - z, _bent(total >> fraction, layer.table), carry)
        found.append(h)
    return in_place(found, reverse).to(torch.int16)


@primitive(_narrow_states, macs=_by_step)
def rnn(
    gates: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor, gate_scale: Tensor, state_scale: Tensor,
    table: Tensor, fraction: int, zero_point: int, out: list[int], relu: bool, reverse: bool, qmin: int, qmax: int,
) -> Tensor:  # fmt: skip
    """Hidden states of an Elman network, `hidden` and the result with `zero_point`.

    tanh of the pre-activation, `out` taking it to steps of the hidden state; with `relu` the pre-activation itself is
    in these steps, and `qmin` cuts it at the zero point.
    """
    layer = _Layer(weight, bias, gate_scale, state_scale, table, fraction)
    h, found = hidden.to(torch.int64), []
    for t in steps(gates.shape[1], reverse):
        total = layer.total(gates[:, t], layer.sums(h - zero_point))
        value = total.clamp(_LOW, _HIGH) if relu else scaled_down(_bent(total, layer.table), out)
        h = (value + zero_point).clamp(qmin, qmax)
        found.append(h)
    return in_place(found, reverse).to(storage(qmin, qmax))
