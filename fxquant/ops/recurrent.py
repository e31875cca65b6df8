"""Recurrent layers, all steps of a direction at once: states keep 16 bits where a step adds to them."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, fx

from fxquant import recurrences  # noqa: F401  # registers the operators
from fxquant.arguments import argument, node_arg
from fxquant.graph import constant_value
from fxquant.ops.products import constant_weight
from fxquant.ops.spelling import Int, Speller, Sum
from fxquant.ops.table import Fusion, RangeRule, float_op
from fxquant.primitives.recurrent import GATE_FRACTION
from fxquant.qparams import QParams

fxq, real = torch.ops.fxq, torch.ops.fxquant

# Units of pre-activations: 16 bits reach from -8 to 8 for a sigmoid, from -4 to 4 for a tanh.
SIGMOID_UNIT, TANH_UNIT = 2.0**-12, 2.0**-13
_LARGEST_FRACTION = 60  # half of it still fits 64 bits
_CARRY_FRACTION = 46  # a gate times a state, shifted to it, takes 61 bits


def factor(scale: float, most: int = _LARGEST_FRACTION) -> list[int]:
    """`scale` as [M, F]: M / 2^F with M below 2^31, as fine as that allows; F is at most `most`."""
    fraction = most
    while round(scale * 2.0**fraction) >= 1 << 31:
        fraction -= 1
    return [round(scale * 2.0**fraction), fraction]


@dataclass(frozen=True)
class _Product:
    """What a layer's sums are: constants of the graph, in the order of the primitives."""

    constants: tuple[fx.Node, ...]
    fraction: int


def _gate_units(node: fx.Node, rows: int) -> Tensor:
    """The unit of each row's pre-activation."""
    gates, bent = _GATES[node.target]
    size = rows // gates
    units = torch.full((rows,), SIGMOID_UNIT, dtype=torch.float64)
    units[bent * size : (bent + 1) * size] = TANH_UNIT
    return units


# How many gates there are, and which one is a tanh.
_GATES: dict[Any, tuple[int, int]] = {
    real.lstm_states.default: (4, 2),
    real.lstm_outputs.default: (4, 2),
    real.gru_states.default: (3, 2),
    real.rnn_outputs.default: (1, 0),
}


def _product(s: Speller, node: fx.Node, gates: QParams, hidden: QParams, units: Tensor | None = None) -> _Product:
    w = s.weight(argument(node, "weight"))
    scale = w.scale.double() * hidden.one_scale
    bias_node, bias = s.bias(argument(node, "bias"), scale, node)
    s.prove(w.integers, hidden, bias, node)
    if bias_node is None:
        bias_node = s.constant(torch.zeros(len(scale), dtype=torch.int32), node, "bias")
    units = _gate_units(node, len(scale)) if units is None else units
    ratios = torch.stack([gates.one_scale / units, scale / units])
    fraction = factor(float(ratios.max()))[1]
    gate_scale, state_scale = torch.round(ratios * 2.0**fraction).clamp(max=2.0**31 - 1).to(torch.int32)
    constants = (
        s.constant(w.integers, node, "weight"),
        bias_node,
        s.constant(gate_scale, node, "gate_scale"),
        s.constant(state_scale, node, "state_scale"),
        s.constant(sigmoid_table(), node, "sigmoid"),
    )
    return _Product(constants, fraction)


def sigmoid_table() -> Tensor:
    """Sigmoid at -8, -8 + 1/16, ..., 8, s16 with 15 fractional bits; the ends are what it tends to."""
    values = torch.sigmoid(torch.arange(-128, 129, dtype=torch.float64) / 16)
    values[0], values[-1] = 0.0, 1.0
    return torch.round(values * 2.0**GATE_FRACTION).clamp(max=2**GATE_FRACTION - 1).to(torch.int16)


def _unfit(module: fx.GraphModule, node: fx.Node) -> str | None:
    """States and gates of 16 bits are symmetric; scales that 64-bit products cannot take occur in no network."""
    ranges = {name: _range(node, name) for name in ("gates", "hidden", "cell", "states")}
    ranges |= {"states": node.meta["fxq.range"].qparams} if node.target in _ADDING else {}
    wide = [q for name, q in ranges.items() if q and (name != "hidden" or node.target is real.gru_states.default)]
    if any(q.one_zero_point or (q.qmin, q.qmax) != (-(1 << 15), (1 << 15) - 1) for q in wide):
        return "its states and gates need 16 bits about zero"
    scales = [q.one_scale for q in (*ranges.values(), node.meta["fxq.range"].qparams) if q]
    return None if all(2.0**-40 < scale < 2.0**10 for scale in scales) else "its ranges are too far apart"


_ADDING = (real.lstm_states.default, real.gru_states.default)


def _range(node: fx.Node, name: str) -> QParams | None:
    if all(a.name != name for a in node.target._schema.arguments):  # type: ignore[union-attr]
        return None
    found: QParams = node_arg(node, name).meta["fxq.range"].qparams
    return found


_STATES: dict[str, Any] = {
    "refuses": constant_weight,
    "misfits": _unfit,
    "range": RangeRule.CARRIED,
}


def _lstm(s: Speller, node: fx.Node, states: QParams) -> tuple[tuple[Any, ...], QParams]:
    """The arguments that both primitives of an LSTM take, and the parameters of its hidden state."""
    gates, hidden, cell = (s.int_(argument(node, name)) for name in ("gates", "hidden", "cell"))
    out, product = hidden.qparams, _product(s, node, gates.qparams, hidden.qparams)
    carry = factor(2.0 ** (-2 * GATE_FRACTION) / states.one_scale, _CARRY_FRACTION)
    bend = factor(states.one_scale / TANH_UNIT)
    whole = factor(2.0 ** (-2 * GATE_FRACTION) / out.one_scale), None, None, 1
    shown, *projection = _projection(s, node, out) or whole
    given = gates.node, hidden.node, cell.node, *product.constants, *projection, product.fraction, out.one_zero_point
    return (*given, carry, bend, shown, argument(node, "reverse"), out.qmin, out.qmax), out


def _projection(s: Speller, node: fx.Node, out: QParams) -> tuple[list[int], fx.Node, fx.Node, int] | None:
    """Of an LSTM: how o * tanh(c) is rounded before its product, the weights of 8 bits, their scale as [M, F]."""
    source = argument(node, "projection")
    if source is None:
        return None
    weight = constant_value(s.module, source).double()
    scale = (weight.abs().amax(1) / _TOP).clamp(min=2.0**-40)
    integers = torch.round(weight / scale.unsqueeze(1))
    # Sums of 32 bits leave so many fractional bits.
    room = max(1.0, float(integers.abs().sum(1).max()))
    bits = min(GATE_FRACTION, 30 - math.ceil(math.log2(room)))
    ratio = scale / out.one_scale
    fraction = max(1, factor(float(ratio.max()) * 2.0**-bits)[1])
    multiplier = torch.round(ratio * 2.0 ** (fraction - bits)).clamp(max=2.0**31 - 1)
    return (
        [1, 2 * GATE_FRACTION - bits],
        s.constant(integers.to(torch.int8), node, "projection"),
        s.constant(multiplier.to(torch.int32), node, "projection_scale"),
        fraction,
    )


# The largest weight of 8 bits.
_TOP = 127


def _lstm_refuses(node: fx.Node) -> str | None:
    projection = argument(node, "projection")
    if isinstance(projection, fx.Node) and projection.op != "get_attr":
        return "its projection is computed, not constant"
    return constant_weight(node)


def _lstm_bounds(node: fx.Node) -> tuple[float, float]:
    return (-1.0, 1.0) if argument(node, "projection") is None else (-math.inf, math.inf)


_LSTM_STATES = _STATES | {"refuses": _lstm_refuses}


@float_op(
    real.lstm_states.default, activations=(0, 1, 2), wide=(0, 2), weight=3, bias=4, carries=2, is_wide=True,
    **_LSTM_STATES,
)  # fmt: skip
def lstm_states(s: Speller, node: fx.Node) -> Int:
    """Cell states of an LSTM, 16 bits: one primitive for all steps, gates by a table with straight lines between."""
    states = node.meta["fxq.range"].qparams
    arguments, _ = _lstm(s, node, states)
    return Int(s.call(fxq.lstm_cells.default, *arguments, like=node), states)


@float_op(
    real.lstm_outputs.default, activations=(0, 1, 2, 3), wide=(0, 1, 3), weight=4, bias=5, carries=2,
    bounds=_lstm_bounds, **_LSTM_STATES,
)  # fmt: skip
def lstm_outputs(s: Speller, node: fx.Node) -> Int:
    """Hidden states of an LSTM, in one range with the state that comes in; cell states inside have 16 bits."""
    arguments, out = _lstm(s, node, s.int_(argument(node, "states")).qparams)
    return Int(s.call(fxq.lstm.default, *arguments, like=node), out)


@float_op(
    real.gru_states.default, activations=(0, 1), wide=(0, 1), weight=2, bias=3, carries=1, is_wide=True, **_STATES
)
def gru_states(s: Speller, node: fx.Node) -> Int:
    """Hidden states of a GRU, 16 bits, of which products take the upper 8."""
    gates, hidden, states = s.int_(node.args[0]), s.int_(node.args[1]), node.meta["fxq.range"].qparams
    product = _product(s, node, gates.qparams, QParams.tensor(states.one_scale * 256, 0))
    carry = factor(2.0 ** (-2 * GATE_FRACTION) / states.one_scale, _CARRY_FRACTION)
    given = gates.node, hidden.node, *product.constants, product.fraction, carry, argument(node, "reverse")
    return Int(s.call(fxq.gru.default, *given, like=node), states)


@float_op(real.rnn_outputs.default, activations=(0, 1), wide=(0,), weight=2, bias=3, carries=1, **_STATES)
def rnn_outputs(s: Speller, node: fx.Node) -> Int:
    """Hidden states of an Elman network by tanh or ReLU, in one range with the state that comes in."""
    gates, hidden = s.int_(node.args[0]), s.int_(node.args[1])
    out, relu = node.meta["fxq.range"].qparams, bool(argument(node, "relu"))
    rows = int(node.meta["val"].shape[-1])
    units = torch.full((rows,), out.one_scale, dtype=torch.float64) if relu else None
    product = _product(s, node, gates.qparams, hidden.qparams, units)
    shown = factor(2.0**-GATE_FRACTION / out.one_scale)
    low = max(out.qmin, out.one_zero_point) if relu else out.qmin
    ends = relu, argument(node, "reverse"), low, out.qmax
    given = gates.node, hidden.node, *product.constants, product.fraction, out.one_zero_point, shown
    return Int(s.call(fxq.rnn.default, *given, *ends, like=node), out)


@float_op(real.rescaled.default, fusion=Fusion.SUM)
def rescaled(s: Speller, node: fx.Node) -> Sum:
    """A state at a scale of its own, of 16 bits for readers that take 8, or the reverse: one rounding."""
    return s.sum_(node.args[0])
