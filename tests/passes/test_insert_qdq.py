"""InsertQDQ: observers become quantize/dequantize pairs, weights quantized constants."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.errors import StageError
from fxquant.passes import InsertQDQ, PropagateRanges
from fxquant.qparams import QParams
from fxquant.recipe import Recipe, Rule
from fxquant.scheme import weight
from fxquant.stage import Stage, stage_of
from tests.passes.graphs import Net, assert_same, data, drawn, run, shown, traced, until


def _net(forward: Callable[..., Any], **modules: nn.Module) -> Net:
    return drawn(Net(forward, **modules))


def test_values_and_weights(golden: Callable[[str], None]) -> None:
    net = _net(lambda m, x: F.relu(m.conv(x)), conv=nn.Conv2d(3, 4, 3, padding=1))
    inputs = data((2, 3, 5, 5))
    before = until(traced(net, *inputs), InsertQDQ, *inputs)
    after = InsertQDQ()(before)
    golden(shown(before, after))
    assert stage_of(after) is Stage.QUANTIZED
    assert_same(net, after, *inputs, atol=0.1)


def test_an_edge_that_must_change_its_scale(golden: Callable[[str], None]) -> None:
    net = _net(lambda m, x, y: torch.cat([x, y * 100], 1) * 2)
    inputs = data((2, 3), (2, 3))
    before = until(traced(net, *inputs), InsertQDQ, *inputs)
    after = InsertQDQ()(before)
    golden(shown(before, after))
    assert_same(net, after, *inputs, atol=4.0)


def _weight(module: Any) -> QParams:
    return next(n.meta["fxq.weight_qparams"] for n in module.graph.nodes if "fxq.weight_qparams" in n.meta)  # type: ignore[no-any-return]


def test_weights_are_per_output_channel() -> None:
    for layer, channels, axis in (
        (nn.ConvTranspose2d(3, 5, 2), 5, 1),
        (nn.Conv2d(3, 5, 2), 5, 0),
        (nn.Linear(4, 6), 6, 0),
    ):
        net = _net(lambda m, x: m.layer(x), layer=layer)
        inputs = data((2, 3, 4, 4))
        found = _weight(InsertQDQ()(until(traced(net, *inputs), InsertQDQ, *inputs)))
        assert (len(found.scale), found.axis) == (channels, axis)
        assert (found.qmin, found.qmax) == (-127, 127) and set(found.zero_point) == {0}


def test_a_per_tensor_weight_has_one_scale() -> None:
    # A rule, since the only layer is a first one, which keeps 8 bits otherwise.
    recipe = Recipe(rules=(Rule("*", weight=weight(4, axis=None)),))
    net = _net(lambda m, x: m.layer(x), layer=nn.Conv2d(3, 5, 2))
    inputs = data((2, 3, 4, 4))
    found = _weight(InsertQDQ()(until(traced(net, *inputs), InsertQDQ, *inputs, recipe=recipe)))
    assert len(set(found.scale)) == 1 and (found.qmin, found.qmax) == (-7, 7)


def test_a_large_bias_coarsens_the_weights_of_its_channel() -> None:
    net = _net(lambda m, x: m.fc(x), fc=nn.Linear(3, 4))
    with torch.no_grad():
        net.get_submodule("fc").get_parameter("weight")[1] = 1e-12
        net.get_submodule("fc").get_parameter("bias")[1] = 1e4
    inputs = data((2, 3))
    after = InsertQDQ()(until(traced(net, *inputs), InsertQDQ, *inputs))
    x_scale = next(n for n in after.graph.nodes if n.target is torch.ops.fxq.quantize.default).args[1]
    scales = _weight(after).scale
    assert scales[1] * x_scale == pytest.approx(1e4 / (1 << 28), rel=1e-5)
    assert max(scales[0], scales[2], scales[3]) < 1e-1
    assert run(after, *inputs)[0][0, 1].item() == pytest.approx(1e4, rel=0.01)


def test_a_value_without_a_range_is_named() -> None:
    net = _net(lambda m, x: m.fc(x), fc=nn.Linear(3, 4))
    inputs = data((2, 3))
    module = until(traced(net, *inputs), PropagateRanges, *inputs)
    with pytest.raises(StageError, match=r"inputs_0 = .* has no range: calibrate, then run PropagateRanges"):
        InsertQDQ()(module)


def test_one_constant_read_by_two_layers_is_quantized_for_each() -> None:
    net = _net(lambda m, x: m.fc(x) + m.fc(x * 3), fc=nn.Linear(3, 3))
    inputs = data((2, 3))
    after = InsertQDQ()(until(traced(net, *inputs), InsertQDQ, *inputs))
    assert len([n for n in after.graph.nodes if n.target is torch.ops.fxq.dequantize_channels.default]) == 2
    assert_same(net, after, *inputs, atol=0.2)


def test_a_tensor_argument_is_not_mistaken_for_a_weight() -> None:
    def forward(m: Any, x: Tensor, w: Tensor) -> Tensor:
        return F.linear(x, w[0])

    net = _net(forward)
    inputs = data((2, 3), (2, 4, 3))
    module = until(traced(net, *inputs), InsertQDQ, *inputs)
    assert_same(net, InsertQDQ()(module), *inputs, atol=0.1)


def _tied(m: Any, x: Tensor) -> Tensor:
    return F.linear(F.relu(m.fc(x)), m.fc.weight) + F.embedding(torch.tensor([2, 0, 1]), m.fc.weight)


ROLES: dict[str, tuple[Callable[..., Any], tuple[int, ...]]] = {
    "a table and a weight": (_tied, (2, 3, 3)),
    "a bias and a term": (lambda m, x: m.fc(x) + m.fc.bias, (2, 3)),
    "a weight and a factor": (lambda m, x: m.fc(x) * m.fc.weight, (2, 3, 3)),
    "gamma, beta and operands": (lambda m, x: m.norm(m.fc(x)) * m.norm.weight + m.norm.bias, (2, 5, 3)),
    "a term and a result": (lambda m, x: (m.fc(x) + m.norm.bias, m.norm.bias), (2, 3)),
    "a part and a bias": (lambda m, x: torch.cat([m.fc(x), m.norm.weight.expand(2, 3)], 1) * m.fc.bias[0], (2, 3)),
}


@pytest.mark.parametrize("roles", ROLES)
def test_a_constant_has_a_form_for_each_role(roles: str) -> None:
    forward, shape = ROLES[roles]
    net = _net(forward, fc=nn.Linear(3, 3), norm=nn.LayerNorm(3))
    (x,) = data(shape)
    quantized = fxquant.quantize(fxquant.trace(net, x, dynamic_batch=False), [x], progress=False)
    for found, wanted in zip(run(quantized, x), run(net, x), strict=True):
        torch.testing.assert_close(found, wanted, atol=0.1, rtol=0.0)
