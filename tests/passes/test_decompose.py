"""Decompose: composite operators become the few that the op table knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.ops.table import TABLE
from fxquant.passes import Decompose, RemoveIdentities
from tests.passes.graphs import Net, assert_same, data, drawn, run, shown, traced


def _attention(m: Net, q: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, q, q, attn_mask=mask)


def test_attention(golden: Callable[[str], None]) -> None:
    inputs = data((2, 2, 4, 8), (2, 1, 4, 4))
    before = traced(Net(_attention), *inputs)
    after = Decompose()(before)
    golden(shown(before, after))
    assert_same(before, after, *inputs)


def _recurrent(m: Net, x: Tensor, state: Tensor) -> tuple[Tensor, ...]:
    y, (h, c) = m.lstm(x)
    again = m.more(x, (h, c))[1][1]
    return m.gru(y.transpose(0, 1), state.transpose(0, 1))[0], again, m.rnn(y, h)[1]


def test_recurrent(golden: Callable[[str], None]) -> None:
    """Products for all steps, then a recurrence; a state that goes into another layer keeps its bits."""
    lstm, more = nn.LSTM(3, 2, batch_first=True), nn.LSTM(3, 2, batch_first=True, bias=False)
    rnn = nn.RNN(2, 2, batch_first=True, nonlinearity="relu")
    inputs = data((2, 3, 3), (2, 2, 2))
    before = traced(
        drawn(Net(_recurrent, lstm=lstm, more=more, gru=nn.GRU(2, 2, bidirectional=True), rnn=rnn)), *inputs
    )
    after = Decompose()(before)
    golden(shown(before, after))
    # States are traced for a batch of two, and for no other.
    for found, wanted in zip(run(after, *inputs), run(before, *inputs), strict=True):
        torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


def _split(m: Net, x: Any) -> tuple[Tensor, ...]:
    a, _, c = x.split(2, dim=1)
    return a, c, x.chunk(2, -1)[1], x.unbind(2)[1], x.split([1, 4], 1)[1]


def test_split(golden: Callable[[str], None]) -> None:
    inputs = data((2, 5, 3))
    before = traced(Net(_split), *inputs)
    after = Decompose()(before)
    golden(shown(before, after))
    assert_same(before, after, *inputs)


def test_view_of_the_batch(golden: Callable[[str], None]) -> None:
    inputs = data((2, 3, 4))
    before = traced(Net(lambda m, x: (x.view(x.shape[0], 12), x.flatten(1), x.reshape(x.size(0), 2, -1))), *inputs)
    after = Decompose()(before)
    golden(shown(before, after))
    assert_same(before, after, *inputs)


@pytest.mark.parametrize("others", [(), (1,), (2,), (1, 1), (1, 2)])
def test_copies_for_each_sample(others: tuple[int, ...]) -> None:
    """Position biases of all heads, as many as there are samples: what ALiBi adds to the scores."""

    def biased(m: Net, x: Tensor) -> Tensor:
        bias = m.get_buffer("bias").repeat(x.shape[0], *others)
        rows = bias.reshape(x.shape[0], -1)
        return x.reshape(x.shape[0], -1)[:, :4] + rows[:, :4]

    inputs = data((2, 3, 4))
    before = traced(Net(biased, bias=torch.arange(6.0).reshape(6) if len(others) < 1 else torch.ones(2, 3)), *inputs)
    after = fxquant.prepare(before)
    assert not {n.target for n in after.graph.nodes} & {torch.ops.aten.repeat.default}
    assert_same(before, after, *inputs)


@pytest.mark.parametrize("function", [torch.exp, torch.exp2, torch.sigmoid, torch.tanh, torch.relu])
@pytest.mark.parametrize("swapped", [False, True])
def test_infinite_choices_that_a_function_bounds(function: Callable[[Tensor], Tensor], swapped: bool) -> None:
    """Decays between the steps of a state space model: e^-inf for those that come later."""

    def decays(m: Net, x: Tensor) -> Tensor:
        if swapped:
            return function(torch.where(m.get_buffer("earlier"), x, float("-inf")))
        return function(x.masked_fill(~m.get_buffer("earlier"), float("-inf")))

    inputs = data((2, 4, 4))
    before = traced(Net(decays, earlier=torch.ones(4, 4).tril().bool()), *inputs)
    quantized = fxquant.quantize(before, [inputs[0]], progress=False)
    assert fxquant.report(quantized).is_fully_integer
    expected, found = run(before, *inputs)[0], run(quantized, *inputs)[0]
    hidden = ~torch.ones(4, 4).tril().bool()
    limit = function(torch.tensor(float("-inf")))
    assert limit != 0 or torch.equal(found[:, hidden], expected[:, hidden])
    assert (found - expected).abs().max() <= (expected.max() - min(0.0, float(expected.min()))) / 100


def test_rows_of_a_table_at_positions_that_are_computed() -> None:
    """Positions count from the padding's number, as BART's successors do it."""

    def positions(m: Net, tokens: Tensor) -> Tensor:
        places = (tokens != 1).int().cumsum(1) * (tokens != 1) + 1
        return m.get_buffer("table").index_select(0, places.long().view(-1)).view(*tokens.shape, -1)

    tokens = torch.randint(0, 4, (3, 5))
    before = traced(Net(positions, table=torch.randn(8, 4)), tokens)
    quantized = fxquant.quantize(before, [tokens], progress=False)
    assert fxquant.report(quantized).is_fully_integer
    assert (run(before, tokens)[0] - run(quantized, tokens)[0]).abs().max() < 0.03


@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_with_a_scale_of_its_own(scale: float | None) -> None:
    inputs = data((2, 2, 4, 8))
    before = traced(Net(lambda m, q: F.scaled_dot_product_attention(q, q, q, scale=scale)), *inputs)
    after = Decompose()(before)
    assert torch.ops.aten.scaled_dot_product_attention.default not in {n.target for n in after.graph.nodes}
    assert_same(before, after, *inputs)


def test_multi_head_attention_is_all_in_the_table() -> None:
    net = drawn(Net(lambda m, x: m.a(x, x, x, need_weights=False)[0], a=nn.MultiheadAttention(8, 2, batch_first=True)))
    inputs = data((2, 5, 8))
    after = Decompose()(RemoveIdentities()(traced(net, *inputs)))
    unknown = [str(n.target) for n in after.graph.nodes if n.op == "call_function" and n.target not in TABLE]
    assert not unknown
    assert_same(net, after, *inputs)


WINDOWS: dict[str, tuple[Callable[..., Tensor], tuple[int, ...]]] = {
    "conv1d": (lambda m, x: F.conv1d(x, m.w[:, :, 0]), (3, 6)),
    "conv2d": (lambda m, x: F.conv2d(x, m.w, padding=1), (3, 6, 5)),
    "conv2d, padding in words": (lambda m, x: F.conv2d(x, m.w, padding="same"), (3, 6, 5)),
    "conv_transpose1d": (lambda m, x: F.conv_transpose1d(x, m.w[:, :, 0], stride=2), (3, 6)),
    "conv_transpose2d": (lambda m, x: F.conv_transpose2d(x, m.w, stride=2), (3, 6, 5)),
    "max_pool1d": (lambda m, x: F.max_pool1d(x, 2), (3, 6)),
    "max_pool2d": (lambda m, x: F.max_pool2d(x, (2, 3), ceil_mode=True), (3, 6, 5)),
    "avg_pool1d": (lambda m, x: F.avg_pool1d(x, 2, padding=1), (3, 6)),
    "avg_pool2d": (lambda m, x: F.avg_pool2d(x, (2, 3), padding=1, count_include_pad=False), (3, 6, 5)),
    "adaptive_avg_pool1d": (lambda m, x: F.adaptive_avg_pool1d(x, 4), (3, 6)),
    "adaptive_avg_pool2d": (lambda m, x: F.adaptive_avg_pool2d(x, (4, 2)), (3, 6, 5)),
}


@pytest.mark.parametrize("window", WINDOWS)
def test_an_image_alone_is_a_batch_of_one(window: str) -> None:
    """Without a batch an image looks like a signal: kernels would slide the window over other axes."""
    forward, shape = WINDOWS[window]
    net = drawn(Net(forward, w=torch.ones(3, 3, 2, 3)))
    (x,) = data(shape)
    graph = fxquant.trace(net, x, dynamic_batch=False)
    quantized, (wanted,) = fxquant.quantize(graph, [x], progress=False), run(net, x)
    torch.testing.assert_close(run(Decompose()(graph), x)[0], wanted)
    torch.testing.assert_close(run(quantized, x)[0], wanted, atol=0.2, rtol=0.0)
    with fxquant.compile(quantized, threads=1) as compiled:
        assert torch.equal(compiled(x), run(quantized, x)[0])
