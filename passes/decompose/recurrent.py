"""Recurrent layers as products with their input, and a recurrence for each direction of each layer.

lstm(x, [h, c], [w, u, b, d])[0]   =>   g = linear(x, w, b); lstm_outputs(lstm_states(g, h, c, u, d), g, h, c, u, d)
lstm(...)[1], lstm(...)[2]         =>   the last of these states, one layer after the other
gru(x, h, ...)                     =>   rescaled(gru_states(linear(x, w, b), h, u, d))

Operators of `fxquant.recurrences`; sequences are (batch, time, values) throughout. A state that is an input of the
network and nothing else shares the range of the states that go out, so that they may come in again; any other is
rescaled.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from torch import fx

from fxquant import recurrences  # noqa: F401  # registers the operators
from fxquant.arguments import arguments, int_arg, node_arg
from fxquant.graph import add_constant, call, replace, shape

aten, real = torch.ops.aten, torch.ops.fxquant

LAYERS = (aten.lstm.input, aten.gru.input, aten.rnn_tanh.input, aten.rnn_relu.input)
_ZEROS = (aten.zeros.default, aten.zeros_like.default, aten.new_zeros.default)
# What only moves values on their way to an output.
_VIEWS = (aten.squeeze.dim, aten.squeeze.default, aten.unsqueeze.default, aten.select.int, aten.slice.Tensor,
          aten.permute.default, aten.transpose.int, aten.view.default, aten.reshape.default)  # fmt: skip


@dataclass(frozen=True)
class _Direction:
    """What one direction of one layer gives: its sequence, its last states as ports want them, and in few bits."""

    output: fx.Node
    wide: tuple[fx.Node, ...]
    narrow: tuple[fx.Node, ...]


def apart(graph: fx.Graph, node: fx.Node) -> fx.Node | None:
    """Note what every result of a recurrent layer becomes, for `parts.item`, and pick single states at once."""
    x, states, weights, has_bias, count, _, _, both, batch_first = arguments(node)
    several = list(states) if isinstance(states, (list, tuple)) else [states]
    kinds, parts = 4 if has_bias else 2, count * (2 if both else 1)
    each, directions = len(weights) // parts, 2 if both else 1
    if any(w.op != "get_attr" for w in weights):
        return None
    x = x if batch_first else call(graph, aten.permute.default, x, [1, 0, 2], like=node)
    found: list[_Direction] = []
    for layer in range(count):
        made = []
        for direction in range(directions):
            number = layer * directions + direction
            own = weights[number * each : (number + 1) * each]
            given = [*own[:kinds], *[None] * (4 - kinds), own[kinds] if each > kinds else None]
            before = [_state(graph, node, state, number, k) for k, state in enumerate(several)]
            made.append(_direction(graph, node, x, before, given, bool(direction)))
        outputs = [one.output for one in made]
        x = call(graph, aten.cat.default, outputs, 2, like=node) if both else outputs[0]
        found += made
    y = x if batch_first else call(graph, aten.permute.default, x, [1, 0, 2], like=node)
    node.meta["fxq.parts"] = [y, *(_last(graph, node, found, k) for k in range(len(several)))]
    return None


def _direction(
    graph: fx.Graph, node: fx.Node, x: fx.Node, before: list[fx.Node], given: list[Any], reverse: bool
) -> _Direction:
    w, u, b, d, projection = given
    gates = call(graph, aten.linear.default, x, w, b, like=node)
    last = 0 if reverse else int(shape(gates)[1]) - 1

    def end(sequence: fx.Node) -> fx.Node:
        return call(graph, aten.select.int, sequence, 1, last, like=node)

    def rescaled(value: fx.Node) -> fx.Node:
        return call(graph, real.rescaled.default, value, like=node)

    if node.target is aten.lstm.input:
        states = call(graph, real.lstm_states.default, gates, *before, u, d, reverse, projection, like=node)
        given = [states, gates, *before, u, d, reverse, projection]
        output = call(graph, real.lstm_outputs.default, *given, like=node)
        hidden, cell = end(output), end(states)
        return _Direction(output, (hidden, cell), (hidden, rescaled(cell)))
    if node.target is aten.gru.input:
        states = call(graph, real.gru_states.default, gates, *before, u, d, reverse, like=node)
        output = rescaled(states)
        return _Direction(output, (end(states),), (end(output),))
    relu = node.target is aten.rnn_relu.input
    output = call(graph, real.rnn_outputs.default, gates, *before, u, d, reverse, relu, like=node)
    return _Direction(output, (end(output),), (end(output),))


def _state(graph: fx.Graph, node: fx.Node, state: fx.Node, number: int, place: int) -> fx.Node:
    """The state before the first step; zeros have no range, and are the same for all samples."""
    module = graph.owning_module
    if state.target in _ZEROS and module is not None:
        return add_constant(module, torch.zeros(1, int(shape(state)[-1])), f"{node.name}_zero")
    if state.target in (aten.expand.default, aten.repeat.default) and _is_one_for_all(node_arg(state, 0)):
        state = node_arg(state, 0)
    found = call(graph, aten.select.int, state, 0, number if shape(state)[0] != 1 else 0, like=node)
    if state.op == "get_attr" or _roles(_origin(state)) == {_is_wide(node, place)}:
        return found
    return call(graph, real.rescaled.default, found, like=node)


def _is_one_for_all(state: fx.Node) -> bool:
    """Whether it is a constant (layers, 1, values), as states are that training finds."""
    return state.op == "get_attr" and len(shape(state)) == 3 and shape(state)[1] == 1


def _is_wide(layer: fx.Node, place: int) -> bool:
    """Whether a state keeps 16 bits: the cell state of an LSTM, the hidden one of a GRU."""
    return layer.target is aten.gru.input or (layer.target is aten.lstm.input and place == 1)


def _origin(state: fx.Node) -> fx.Node:
    while state.target in _VIEWS:
        state = node_arg(state, 0)
    return state


def _roles(origin: fx.Node) -> set[bool | None]:
    """For what an input is read: as states that are wide, as others, or as something else (None)."""
    found: set[bool | None] = set() if origin.op == "placeholder" else {None}
    waiting = [origin]
    while waiting:
        one = waiting.pop()
        for user in one.users:
            if user.target in _VIEWS:
                waiting.append(user)
            elif user.target in LAYERS:
                states = user.args[1] if isinstance(user.args[1], (list, tuple)) else [user.args[1]]
                found |= {_is_wide(user, place) for place, state in enumerate(states) if state is one}
                found |= {None} if user.args[0] is one else set()
            elif not str(user.target).startswith("fxquant."):
                found.add(None)
    return found


def _last(graph: fx.Graph, node: fx.Node, found: list[_Direction], place: int) -> fx.Node | None:
    """The last states of all layers, stacked. Who reads one of them gets it; who returns them gets all their bits."""
    for item in [user for user in node.users if int_arg(user, 1) == place + 1]:
        for user in list(item.users):
            if user.target is aten.select.int and int_arg(user, "dim") == 0:
                one = found[int_arg(user, "index")]
                replace(user, (one.wide if _is_only_returned(user) else one.narrow)[place])
        if not item.users:
            continue
        is_port = _is_only_returned(item)
        several = [(one.wide if is_port else one.narrow)[place] for one in found]
        rows = [call(graph, aten.unsqueeze.default, one, 0, like=node) for one in several]
        return rows[0] if len(rows) == 1 else call(graph, aten.cat.default, rows, 0, like=node)
    return None


def _is_only_returned(node: fx.Node) -> bool:
    """Whether a value goes nowhere but to outputs, and into other recurrent layers."""
    return all(
        user.op == "output" or user.target in LAYERS or (user.target in _VIEWS and _is_only_returned(user))
        for user in node.users
    )
