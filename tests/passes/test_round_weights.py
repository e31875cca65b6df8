"""RoundWeights: other integers than the nearest, less error in what layers give, on new inputs as well, and exact."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import passes
from fxquant.gains import gains_of
from fxquant.graph import calls, compute, constant_value
from fxquant.passes import RoundWeights, round_weights
from fxquant.recipe import Recipe
from fxquant.trials import as_trials
from tests.passes.graphs import Net, batches, data, drawn, run

fxq = torch.ops.fxq

# A rule, since first, last and depthwise layers keep 8 bits otherwise.
FOUR = Recipe.from_dict({"rules": [{"match": "*", "weight": {"bits": 4}}]})


def _mixed(x: Tensor) -> Tensor:
    """Inputs whose features have to do with each other, as those of real data."""
    return x + x.roll(1, 1) + 0.5 * x.roll(2, 1)


KINDS: dict[str, tuple[Any, dict[str, nn.Module], tuple[int, ...]]] = {
    "linear": (lambda m, x: m.b(F.relu(m.a(x))), {"a": nn.Linear(24, 24), "b": nn.Linear(24, 8)}, (64, 24)),
    "images": (
        lambda m, x: m.b(F.relu(m.a(x))),
        {"a": nn.Conv2d(8, 12, 3, padding=1), "b": nn.Conv2d(12, 4, 3, stride=2, dilation=2)},
        (64, 8, 7, 6),
    ),
    "groups": (
        lambda m, x: m.b(F.relu(m.a(x))),
        {"a": nn.Conv2d(8, 8, 3, groups=8), "b": nn.Conv2d(8, 6, 3, groups=2)},
        (64, 8, 7, 6),
    ),
    "signals": (lambda m, x: m.b(F.relu(m.a(x))), {"a": nn.Conv1d(8, 8, 3), "b": nn.Conv1d(8, 4, 5)}, (64, 8, 12)),
}


def _converted(graph: fx.GraphModule, inputs: Tensor, recipe: Recipe, *, rounds: bool) -> fx.GraphModule:
    given = batches(inputs, 16)
    observed = fxquant.calibrate(fxquant.prepare(graph, recipe), given, progress=False)
    steps = passes.convert()
    return (steps.after("InsertQDQ", RoundWeights(given)) if rounds else steps)(observed)


@pytest.mark.parametrize("kind", KINDS)
def test_layers_lose_less_on_new_inputs(kind: str) -> None:
    forward, parts, shape = KINDS[kind]
    net = drawn(Net(forward, **parts))
    with torch.no_grad():
        generator = torch.Generator().manual_seed(2)
        for weight in net.parameters():
            weight.mul_(torch.rand(weight.shape, generator=generator) + 0.5)
    (inputs,), (fresh,) = data(shape), data(shape, seed=9)
    graph = fxquant.trace(net, (_mixed(inputs)[:2],))
    nearest, rounded = (_converted(graph, _mixed(inputs), FOUR, rounds=rounds) for rounds in (False, True))
    (gain,) = gains_of(rounded)
    assert gain.places == 2 and gain.kept and gain.after > gain.before + 0.5
    real = run(net, _mixed(fresh))[0]
    noise = [float((run(found, _mixed(fresh))[0] - real).square().mean()) for found in (nearest, rounded)]
    assert noise[1] < 0.9 * noise[0]
    with fxquant.compile(rounded, threads=1, against_float=False) as compiled:
        assert torch.equal(compiled(fresh), rounded(fresh))


def test_no_integer_is_better_by_one_step() -> None:
    """Whichever integer is moved by one: what the layer gives of the data that it was fitted to is worse by it."""
    net = drawn(Net(lambda m, x: m.a(x), a=nn.Linear(6, 3)))
    (inputs,) = data((64, 6))
    given = batches(_mixed(inputs), 16)
    graph = fxquant.trace(net, given[0])
    observed = fxquant.calibrate(fxquant.prepare(graph, FOUR), given, progress=False)
    step = RoundWeights(given)
    rounded = passes.convert().after("InsertQDQ", step)(observed)
    (layer,) = calls(rounded.graph, fxq.linear.default)
    q, integers = layer.meta["fxq.weight_qparams"], _unpacked(rounded, layer).double()
    (read,) = calls(rounded.graph, fxq.quantize.default)
    fit = torch.cat([batch[0] for batch in as_trials(observed, given).fit])
    x = read.meta["fxq.range"].qparams.rounded(fit).double()
    scale, weight = torch.tensor(q.scale, dtype=torch.float64)[:, None], net.a.weight.detach().double()

    def cost(tried: Tensor) -> float:
        return float((x @ (tried * scale - weight).T).square().sum())

    least = cost(integers)
    for place in range(integers.numel()):
        for by in (-1, 1):
            tried = integers.clone()
            tried.view(-1)[place] += by
            if q.qmin <= float(tried.view(-1)[place]) <= q.qmax:
                assert cost(tried) >= least * (1 - 1e-9)


def test_blocks_change_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """What inputs of one block do to all others at once is what they do one after the other."""
    forward, parts, shape = KINDS["linear"]
    (inputs,), found = data(shape), []
    graph = fxquant.trace(drawn(Net(forward, **parts)), (inputs[:2],))
    for size in (1, 5, 128):
        monkeypatch.setattr(round_weights, "BLOCK", size)
        found.append(_converted(graph, _mixed(inputs), FOUR, rounds=True))
    first, *others = [[_unpacked(one, layer) for layer in calls(one.graph, fxq.linear.default)] for one in found]
    assert all(torch.equal(a, b) for other in others for a, b in zip(first, other, strict=True))


def _unpacked(module: fx.GraphModule, layer: fx.Node) -> Tensor:
    """The integers of a layer's weights."""
    weight = layer.args[1]
    assert isinstance(weight, fx.Node)
    if weight.op == "get_attr":
        return constant_value(module, weight)
    found: Tensor = compute(weight, lambda node: constant_value(module, node))
    return found


def test_room_for_products_is_kept() -> None:
    """Integers that leave a kernel room for neighbouring products stay the nearest ones."""
    net = drawn(Net(lambda m, x: m.a(x), a=nn.Linear(32, 8)))
    (inputs,) = data((32, 32))
    graph = fxquant.trace(net, (inputs[:2],))
    found = _converted(graph, inputs, Recipe.from_dict({"weight": {"products": 4}}), rounds=True)
    (gain,) = gains_of(found)
    assert gain.places == 0 and "with weights in integers occurs" in gain.note


def test_the_effort_max_uses_it() -> None:
    forward, parts, shape = KINDS["linear"]
    net = drawn(Net(forward, **parts))
    (inputs,) = data(shape)
    graph = fxquant.trace(net, (inputs[:2],))
    found = fxquant.quantize(graph, batches(_mixed(inputs), 16), recipe=FOUR, effort="max", progress=False)
    gains = {gain.step: gain for gain in gains_of(found)}
    assert list(gains)[-2:] == ["RoundWeights", "CorrectBiases"]
    assert gains["RoundWeights"].kept and gains["RoundWeights"].after > gains["RoundWeights"].before
