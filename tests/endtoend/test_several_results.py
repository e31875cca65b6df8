"""Operators with several results, of values and of constants, and sums of sums: what quantize takes, compile takes."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from tests.passes.graphs import Net, data, drawn, run


def close(model: nn.Module, *inputs: Tensor) -> fx.GraphModule:
    """The INTEGER graph; compiled code is held to it, floats to their last digits."""
    quantized = fxquant.quantize(fxquant.trace(model, inputs), [inputs], progress=False)
    with fxquant.compile(quantized, threads=1, against_float=False) as compiled:
        found = compiled(*inputs)
    for a, b in zip(found if isinstance(found, tuple) else (found,), run(quantized, *inputs), strict=True):
        assert a.dtype == b.dtype and torch.allclose(a, b, rtol=1e-4, atol=1e-4)
    return quantized


def rest(m: Any, x: Tensor) -> Tensor:
    """Something in integers before it."""
    found: Tensor = F.relu(m.fc(x))
    return found


SEVERAL: dict[str, tuple[Callable[[Any, Tensor], Any], dict[str, Any]]] = {
    "values of topk": (lambda m, x: rest(m, x).topk(2, -1)[0], {}),
    "values of sort": (lambda m, x: rest(m, x).sort(-1)[0], {}),
    "values of max": (lambda m, x: rest(m, x).max(1)[0] * 2, {}),
    "both of max": (lambda m, x: rest(m, x).max(-1), {}),
    "adaptive max pool": (lambda m, x: F.adaptive_max_pool2d(rest(m, x), 2), {}),
    "max pool with places": (lambda m, x: F.max_pool2d(rest(m, x), 2, return_indices=True), {}),
    "variance and mean": (lambda m, x: torch.var_mean(rest(m, x), -1), {}),
    "LSTM": (lambda m, x: m.cell(rest(m, x)[:, 0, :2])[0], {"cell": nn.LSTM(8, 3, batch_first=True)}),
    "GRU": (lambda m, x: m.cell(rest(m, x)[:, 0, :2]), {"cell": nn.GRU(8, 3, batch_first=True)}),
    "LSTM cell": (lambda m, x: m.cell(rest(m, x)[:, 0, 0])[1], {"cell": nn.LSTMCell(8, 3)}),
    "GRU cell": (lambda m, x: m.cell(rest(m, x)[:, 0, 0]), {"cell": nn.GRUCell(8, 3)}),
    "group norm without weights": (lambda m, x: m.norm(rest(m, x)), {"norm": nn.GroupNorm(2, 4, affine=False)}),
    "group norm in the middle": (lambda m, x: m.fc(m.norm(rest(m, x))), {"norm": nn.GroupNorm(2, 4)}),
    "instance norm": (lambda m, x: m.norm(rest(m, x)), {"norm": nn.InstanceNorm2d(4, affine=True)}),
}


@pytest.mark.parametrize("name", SEVERAL)
def test_what_gives_several_results_is_compiled(name: str) -> None:
    forward, modules = SEVERAL[name]
    close(drawn(Net(forward, fc=nn.Linear(8, 8), **modules)), *data((2, 4, 4, 8)))


@pytest.mark.parametrize("kind", ["LSTM", "GRU", "RNN"])
def test_recurrent_layers_that_a_recipe_keeps_in_float_are_compiled(kind: str) -> None:
    # Steps are written out: two say all that more would.
    layer = getattr(nn, kind)(8, 3, 2, bidirectional=True, batch_first=True)
    net, (x,) = drawn(Net(lambda m, x: m.fc(m.cell(F.relu(x))[0]), cell=layer, fc=nn.Linear(6, 4))), data((2, 2, 8))
    recipe = fxquant.Recipe(rules=(fxquant.Rule("cell", keep_float=True),))
    quantized = fxquant.quantize(fxquant.trace(net, x), [x], recipe=recipe, progress=False)
    assert not fxquant.report(quantized).is_fully_integer
    with fxquant.compile(quantized, threads=1, against_float=False) as compiled:
        assert torch.allclose(compiled(x), quantized(x), rtol=1e-4, atol=1e-4)


def test_bags_of_rows() -> None:
    tokens = torch.tensor([[4, 0, 2], [2, 1, 1]])
    close(drawn(Net(lambda m, i: m.fc(m.bag(i)), bag=nn.EmbeddingBag(5, 8), fc=nn.Linear(8, 3))), tokens)


def _grid(m: Any, x: Tensor) -> Tensor:
    """As detectors add the places of their cells."""
    rows, columns = torch.meshgrid(torch.arange(4.0), torch.arange(8.0), indexing="ij")
    found: Tensor = m.fc(x) + torch.stack([rows, columns, rows * columns, rows - columns])
    return found


def _standardized(m: Any, x: Tensor) -> Tensor:
    """As networks without batch norm do with their weights, at each run."""
    weight = F.batch_norm(m.conv.weight.reshape(1, 6, -1), None, None, training=True).reshape(m.conv.weight.shape)
    return F.conv2d(x, weight, m.conv.bias)


CONSTANT: dict[str, tuple[Callable[[Any, Tensor], Tensor], dict[str, nn.Module]]] = {
    "meshgrid": (_grid, {"fc": nn.Linear(8, 8)}),
    "a weight by batch norm": (_standardized, {"conv": nn.Conv2d(4, 6, 3)}),
    "parts of a constant": (
        lambda m, x: m.fc(x) * m.fc.weight.split(4, 0)[0] + m.fc.weight.unbind(0)[1],
        {"fc": nn.Linear(8, 8)},
    ),
}


@pytest.mark.parametrize("name", CONSTANT)
def test_several_results_of_constants_are_constants(name: str) -> None:
    forward, modules = CONSTANT[name]
    assert fxquant.report(close(drawn(Net(forward, **modules)), *data((2, 4, 4, 8)))).is_fully_integer


SUMS: dict[str, Callable[[Any, Tensor, Tensor], Tensor]] = {
    "(a + b) k + c": lambda m, x, y: (m.fc(x) + y) * 0.5 + m.fc(y),
    "((a + b) k + c) k": lambda m, x, y: ((m.fc(x) + m.fc(y)) * 0.5 + x) / 3,
    "a - (b + c) k": lambda m, x, y: x - (m.fc(x) - m.fc(y)) * -2.0,
    "four": lambda m, x, y: m.fc(x) + m.fc(y) + m.fc(x - y) + y,
}


@pytest.mark.parametrize("name", SUMS)
def test_sums_of_sums_are_integers(name: str) -> None:
    model = drawn(Net(SUMS[name], fc=nn.Linear(8, 8)))
    x, y = data((3, 5, 8), (3, 5, 8))
    quantized = close(model, x, y)
    assert fxquant.report(quantized).is_fully_integer
    (real,), (found,) = run(model, x, y), run(quantized, x, y)
    assert float((real - found).abs().max()) < 0.05 * float(real.abs().max())
