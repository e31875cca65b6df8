"""Recurrent layers of FLOAT graphs, one direction of one layer each, as operators whose values can be observed.

    lstm_states(gates, h, c, w, b)    c_t = f * c_{t-1} + i * g           (i, f, g, o by rows of `w`)
    lstm_outputs(cs, gates, h, w, b)  h_t = o * tanh(c_t), with a projection P @ (o * tanh(c_t))
    gru_states(gates, h, w, b)        h_t = (1 - z) * n + z * h_{t-1}     (r, z, n)
    rnn_outputs(gates, h, w, b)       h_t = tanh(...) or relu(...)

`gates` (N, T, rows) are the products with the layer's input, its bias included; `hidden` and `cell` (N, H), or (1, H)
for all samples alike, the states before the first step; `weight` (rows, H) and `bias` (rows,) those of the hidden
state. A result (N, T, H) has the value after every step; with `reverse` time runs backwards, and the last step is the
first.
Definitions are those of torch.nn.LSTM, GRU and RNN.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import linear


def steps(count: int, reverse: bool) -> Iterator[int]:
    """The places of a sequence in the order of time."""
    return iter(range(count - 1, -1, -1) if reverse else range(count))


def in_place(found: list[Tensor], reverse: bool) -> Tensor:
    """Values of steps in the order of time, as a sequence."""
    return torch.stack(found[::-1] if reverse else found, 1)


def _like_hidden(gates: Tensor, hidden: Tensor, *rest: Any) -> Tensor:
    return gates.new_empty((*gates.shape[:2], hidden.shape[1]))


def _like_cell(gates: Tensor, hidden: Tensor, cell: Tensor, *rest: Any) -> Tensor:
    return gates.new_empty((*gates.shape[:2], cell.shape[1]))


def _behind_cells(states: Tensor, gates: Tensor, hidden: Tensor, *rest: Any) -> Tensor:
    return gates.new_empty((*gates.shape[:2], hidden.shape[1]))


def _registered(function: Callable[..., Tensor], shape: Callable[..., Tensor] = _like_hidden) -> Callable[..., Tensor]:
    """The function as `torch.ops.fxquant.<name>`, with the shape of its result."""
    op = torch.library.custom_op(f"fxquant::{function.__name__}", function, mutates_args=())
    op.register_fake(shape)
    op.register_autograd(partial(_gradients, function), setup_context=_keep)
    return function


def _keep(ctx: Any, inputs: tuple[Any, ...], output: Tensor) -> None:
    ctx.save_for_backward(*(x for x in inputs if isinstance(x, Tensor)))
    ctx.others = [None if isinstance(x, Tensor) else x for x in inputs]
    ctx.places = [isinstance(x, Tensor) for x in inputs]


def _gradients(function: Callable[..., Tensor], ctx: Any, gradient: Tensor) -> tuple[Any, ...]:
    """By running the steps once more: what they gave is not kept, which takes most of the memory of training."""
    saved = iter(ctx.saved_tensors)
    inputs = [
        _apart(next(saved)) if is_tensor else other for is_tensor, other in zip(ctx.places, ctx.others, strict=True)
    ]
    wanted = [x for x in inputs if isinstance(x, Tensor) and x.requires_grad]
    with torch.enable_grad():
        found = iter(torch.autograd.grad(function(*inputs), wanted, gradient, allow_unused=True))
    return tuple(next(found) if isinstance(x, Tensor) and x.requires_grad else None for x in inputs)


def _apart(x: Tensor) -> Tensor:
    return x.detach().requires_grad_(x.requires_grad)


@partial(_registered, shape=_like_cell)
def lstm_states(
    gates: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool,
    projection: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The cell states of an LSTM."""
    found = []
    for t in steps(gates.shape[1], reverse):
        i, f, g, o = (gates[:, t] + linear(hidden, weight, bias)).chunk(4, -1)
        cell = torch.sigmoid(f) * cell + torch.sigmoid(i) * torch.tanh(g)
        hidden = _projected(torch.sigmoid(o) * torch.tanh(cell), projection)
        found.append(cell)
    return in_place(found, reverse)


@partial(_registered, shape=_behind_cells)
def lstm_outputs(
    states: Tensor, gates: Tensor, hidden: Tensor, cell: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool,
    projection: Tensor | None = None,
) -> Tensor:  # fmt: skip
    """The hidden states of an LSTM whose cell states are known; `cell` is the one before them."""
    size, found = states.shape[-1], []
    rows, offset = weight[3 * size :], None if bias is None else bias[3 * size :]
    for t in steps(gates.shape[1], reverse):
        o = gates[:, t, 3 * size :] + linear(hidden, rows, offset)
        hidden = _projected(torch.sigmoid(o) * torch.tanh(states[:, t]), projection)
        found.append(hidden)
    return in_place(found, reverse)


def _projected(hidden: Tensor, projection: Tensor | None) -> Tensor:
    return hidden if projection is None else linear(hidden, projection)


@_registered
def gru_states(gates: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool) -> Tensor:
    """The hidden states of a GRU."""
    found = []
    for t in steps(gates.shape[1], reverse):
        r, z, n = gates[:, t].chunk(3, -1)
        r_hidden, z_hidden, n_hidden = linear(hidden, weight, bias).chunk(3, -1)
        kept = torch.sigmoid(z + z_hidden)
        new = torch.tanh(n + torch.sigmoid(r + r_hidden) * n_hidden)
        hidden = (1 - kept) * new + kept * hidden
        found.append(hidden)
    return in_place(found, reverse)


@_registered
def rnn_outputs(
    gates: Tensor, hidden: Tensor, weight: Tensor, bias: Tensor | None, reverse: bool, relu: bool
) -> Tensor:
    """The hidden states of an Elman network, by tanh or `relu`."""
    found = []
    for t in steps(gates.shape[1], reverse):
        total = gates[:, t] + linear(hidden, weight, bias)
        hidden = torch.relu(total) if relu else torch.tanh(total)
        found.append(hidden)
    return in_place(found, reverse)


@partial(_registered, shape=torch.empty_like)
def rescaled(x: Tensor) -> Tensor:
    """`x` itself: the same value at a scale and in bits of its own."""
    return x.clone()
