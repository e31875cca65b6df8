"""CorrectBiases: channels' means are those of float, on inputs that nothing was fitted to, or all stays as it was."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant.arguments import argument, node_arg
from fxquant.errors import StageError
from fxquant.gains import gains_of
from fxquant.graph import calls, constant_value
from fxquant.ops.fixed_point import encode_narrow, is_narrow
from fxquant.passes import CorrectBiases
from fxquant.recipe import Recipe
from tests.passes.graphs import Net, data, drawn, shown

COARSE = Recipe.from_dict({"rules": [{"match": "*", "weight": {"bits": 3}}]})


def _net() -> Net:
    """Every kind of product, with and without a bias, one of them summed up with another's result."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = F.relu(m.a(x))
        z = F.relu(m.b(y) + y)
        out: Tensor = m.fc(m.up(z).mean((2, 3)))
        return out

    parts = {"a": nn.Conv2d(3, 8, 3, padding=1, bias=False), "b": nn.Conv2d(8, 8, 3, padding=1, groups=2)}
    return drawn(Net(forward, **parts, up=nn.ConvTranspose2d(8, 6, 2, groups=2), fc=nn.Linear(6, 4)))


def _steps(net: nn.Module, inputs: Tensor, recipe: Recipe | None = None) -> tuple[fx.GraphModule, fx.GraphModule]:
    observed = fxquant.prepare(fxquant.trace(net, (inputs[:2],)), recipe)
    fxquant.calibrate(observed, [inputs], progress=False)
    return observed, fxquant.convert(observed)


def _noise(found: fx.GraphModule, net: nn.Module, inputs: Tensor) -> float:
    with torch.no_grad():
        return float((found(inputs) - net(inputs)).square().mean())


def test_the_error_of_coarse_weights_falls_on_new_inputs(golden: Callable[[str], None]) -> None:
    net = _net()
    (inputs,), (fresh,) = data((48, 3, 6, 6)), data((40, 3, 6, 6), seed=9)
    observed, before = _steps(net, inputs, COARSE)
    after = CorrectBiases(observed, [inputs])(before)
    golden(shown(before, after))
    (gain,) = gains_of(after)
    assert gain.places == 4 and gain.kept >= 3 and gain.after > gain.before
    assert _noise(after, net, fresh) < 0.8 * _noise(before, net, fresh)
    with fxquant.compile(after, threads=1, against_float=False) as compiled:
        assert torch.equal(compiled(fresh), after(fresh))


def test_the_graph_that_is_given_stays_as_it_is() -> None:
    (inputs,) = data((16, 3, 6, 6))
    observed, before = _steps(_net(), inputs, COARSE)
    wanted = before(inputs)
    CorrectBiases(observed, [inputs])(before)
    assert torch.equal(before(inputs), wanted) and not gains_of(before)


def test_what_helps_only_where_it_was_fitted_is_undone() -> None:
    """The inputs to judge by (every fourth) are of the other sign: their error is the opposite one."""
    net = drawn(Net(lambda m, x: m.a(x), a=nn.Linear(16, 4, bias=False)))
    (inputs,) = data((64, 16))
    inputs = inputs.abs()
    inputs[3::4] *= -1
    observed, before = _steps(net, inputs, COARSE)
    after = CorrectBiases(observed, [inputs])(before)
    (gain,) = gains_of(after)
    assert gain.kept == 0 and gain.after == gain.before
    assert torch.equal(after(inputs), before(inputs))


def test_ranges_of_run_time_are_left_alone_and_told() -> None:
    (inputs,) = data((8, 3, 6, 6))
    observed, before = _steps(_net(), inputs, Recipe.named("dynamic"))
    (gain,) = gains_of(CorrectBiases(observed, [inputs])(before))
    assert str(gain) == "CorrectBiases: 0 of 0; no product with a known range occurs"


def test_it_compares_with_an_observed_graph_only() -> None:
    (inputs,) = data((8, 3, 6, 6))
    _, before = _steps(_net(), inputs)
    with pytest.raises(StageError, match="OBSERVED graph, this one is FLOAT"):
        CorrectBiases(fxquant.trace(_net(), (inputs,)), [inputs])(before)


def test_narrow_multipliers_stay_narrow() -> None:
    """Kernels are fast by them: a channel whose sums would outgrow its multiplier keeps its bias."""
    (inputs,) = data((48, 3, 6, 6))
    narrow = Recipe.from_dict({"rules": [{"match": "*", "weight": {"bits": 3, "narrow": True}}]})
    observed, before = _steps(_net(), inputs, narrow)
    after = CorrectBiases(observed, [inputs])(before)
    assert gains_of(after)[0].kept
    fxq = torch.ops.fxq
    for node in calls(after.graph, fxq.requantize.default):
        acc = node_arg(node, 0)
        if acc.target is fxq.conv.default:
            multiplier = constant_value(after, node_arg(node, 1)).flatten()
            weight = constant_value(after, node_arg(acc, 1)).double()
            given = argument(acc, 2)
            bias = torch.zeros(len(weight)) if given is None else constant_value(after, given).double()
            assert bool(is_narrow(multiplier, weight.abs().flatten(1).sum(1) * 128 + bias.abs()).all())


def test_is_narrow_is_what_encode_narrow_makes() -> None:
    scale, largest = torch.tensor([0.001, 0.0004, 0.02]), torch.tensor([2e5, 4e5, 5e3])
    found = encode_narrow(scale, largest)
    assert found is not None and bool(is_narrow(found, largest).all())
    assert not bool(is_narrow(found, largest * 2.0**20).any())
    assert not bool(is_narrow(torch.tensor([12345677], dtype=torch.int32), torch.tensor([1e6])).any())
