"""EqualizeLayers: the graph computes what it did, and channels of unlike size lose less."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.arguments import node_arg
from fxquant.equalized import equalized
from fxquant.gains import gains_of
from fxquant.graph import constant_value
from fxquant.passes import EqualizeLayers
from fxquant.passes.layer_pairs import pairs
from fxquant.passmanager import Pipeline
from fxquant.recipe import Recipe
from tests.passes.graphs import Net, assert_same, data, drawn, run, shown, traced

PER_TENSOR = Recipe.from_dict({"weight": {"axis": None}})


def _unlike(net: Net) -> Net:
    """Channels of the first layer up to 500 times larger than others, as depthwise networks have them."""
    with torch.no_grad():
        factors = torch.logspace(-1.5, 1.2, len(net.a.weight))
        net.a.weight.mul_(factors.reshape(-1, *[1] * (net.a.weight.ndim - 1)))
        net.a.bias.mul_(factors)
    return net


def _depthwise() -> Net:
    def forward(m: Net, x: Tensor) -> Tensor:
        y = F.relu(m.b(F.relu(m.a(x))))
        out: Tensor = m.c(y)
        return out

    b = nn.Conv2d(8, 8, 3, padding=1, groups=8)
    return _unlike(drawn(Net(forward, a=nn.Conv2d(3, 8, 1), b=b, c=nn.Conv2d(8, 4, 1))))


def test_through_a_depthwise_layer(golden: Callable[[str], None]) -> None:
    net, inputs = _depthwise(), data((2, 3, 5, 5))
    before = traced(net, *inputs)
    after = EqualizeLayers()(before)
    golden(shown(before, after))
    assert_same(net, after, *inputs, atol=1e-4)
    rows = [constant_value(after, node_arg(pair.first, 1)).abs().flatten(1).amax(1) for pair in pairs(after)]
    assert len(rows) == 2 and float(rows[0].max() / rows[0].min()) < 60
    first = constant_value(before, node_arg(pairs(before)[0].first, 1)).abs().flatten(1).amax(1)
    assert float(first.max() / first.min()) > 400


def _pooled(m: Any, x: Tensor) -> Tensor:
    y = F.pad(F.max_pool2d(F.leaky_relu(m.a(x), 0.1), 2), (1, 0, 1, 0))
    out: Tensor = m.b(y)
    return out


BETWEEN: dict[str, tuple[Callable[..., Any], dict[str, nn.Module], tuple[int, ...]]] = {
    "leaky ReLU, pooling, padding": (_pooled, {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(4, 2, 3)}, (2, 3, 6, 6)),
    "PReLU by channel": (
        lambda m, x: m.b(m.act(m.a(x))),
        {"a": nn.Conv2d(3, 4, 1), "act": nn.PReLU(4), "b": nn.Conv2d(4, 2, 1, groups=2)},
        (2, 3, 4, 4),
    ),
    "nothing, signals": (lambda m, x: m.b(m.a(x)), {"a": nn.Conv1d(3, 4, 3), "b": nn.Conv1d(4, 2, 1)}, (2, 3, 9)),
    "average and flatten": (
        lambda m, x: m.b(torch.flatten(F.adaptive_avg_pool2d(F.relu(m.a(x)), 1), 1)),
        {"a": nn.Conv2d(3, 4, 1), "b": nn.Linear(4, 2)},
        (2, 3, 4, 4),
    ),
    "mean": (
        lambda m, x: m.b(F.relu(m.a(x)).mean((2, 3))),
        {"a": nn.Conv2d(3, 4, 1), "b": nn.Linear(4, 2)},
        (2, 3, 4, 4),
    ),
    "linear on tokens": (lambda m, x: m.b(F.relu(m.a(x))), {"a": nn.Linear(3, 4), "b": nn.Linear(4, 2)}, (2, 5, 3)),
    "two readers": (
        lambda m, x: m.b(y := F.relu(m.a(x))) + m.c(y),
        {"a": nn.Conv2d(3, 4, 1), "b": nn.Conv2d(4, 2, 1), "c": nn.Conv2d(4, 2, 1)},
        (2, 3, 4, 4),
    ),
    "a norm": (
        lambda m, x: m.b(y := m.a(x)) * m.c(y),
        {"a": nn.LayerNorm(4), "b": nn.Linear(4, 2), "c": nn.Linear(4, 2)},
        (2, 3, 4),
    ),
}


@pytest.mark.parametrize("kind", BETWEEN)
def test_what_keeps_factors(kind: str) -> None:
    forward, parts, shape = BETWEEN[kind]
    net = _unlike(drawn(Net(forward, **parts)))
    inputs = data(shape)
    graph = fxquant.prepare_pipeline().passes[:4]
    float_graph = Pipeline(graph)(traced(net, *inputs))
    held = fxquant.SameResults(float_graph, inputs)
    after = Pipeline((EqualizeLayers(),))(float_graph, held)
    assert len(pairs(after)) == 1 and equalized(after)
    assert_same(net, after, *inputs, atol=1e-4)


NOT: dict[str, Callable[..., Any]] = {
    "ReLU6": lambda m, x: m.b(F.relu6(m.a(x))),
    "sigmoid": lambda m, x: m.b(torch.sigmoid(m.a(x))),
    "another reader": lambda m, x: m.b(y := F.relu(m.a(x))) + y[:, :2],
    "padding by one": lambda m, x: m.b(F.pad(F.relu(m.a(x)), (1, 0), value=1.0)),
    "features": lambda m, x: m.c(F.relu(m.a(x))),
}


@pytest.mark.parametrize("kind", NOT)
def test_what_keeps_none_is_left_alone_and_told(kind: str) -> None:
    net = drawn(Net(NOT[kind], a=nn.Conv2d(3, 4, 1), b=nn.Conv2d(4, 2, 1), c=nn.Linear(4, 2)))
    (inputs,) = data((4, 3, 4, 4))
    after = EqualizeLayers(data=[inputs])(traced(net, inputs))
    assert not equalized(after)
    (gain,) = gains_of(after)
    assert (gain.places, gain.kept) == (0, 0) and "no two layers follow each other" in str(gain)


@pytest.mark.parametrize("recipe", [Recipe(), PER_TENSOR], ids=["per channel", "per tensor"])
def test_channels_of_unlike_size_lose_less(recipe: Recipe) -> None:
    net = _depthwise()
    (inputs,), (fresh,) = data((48, 3, 6, 6)), data((32, 3, 6, 6), seed=5)
    graph = fxquant.trace(net, (inputs[:2],))
    pipeline = fxquant.prepare_pipeline(recipe)
    noise = []
    for steps in (pipeline, pipeline.before("Annotate", EqualizeLayers(recipe, [inputs]))):
        observed = fxquant.calibrate(steps(graph), [inputs], progress=False)
        found = fxquant.convert(observed)
        noise.append(float((run(found, fresh)[0] - run(net, fresh)[0]).square().mean()))
    (gain,) = gains_of(found)
    assert gain.places == gain.kept == 2 and gain.after > gain.before + 3
    assert noise[1] < 0.8 * noise[0]
    with fxquant.compile(found, threads=1, against_float=False) as compiled:
        assert torch.equal(compiled(fresh), found(fresh))


def _attended(m: Any, x: Tensor) -> Tensor:
    y = m.a(x)
    out: Tensor = m.b(y).softmax(-1) @ m.c(y).transpose(1, 2) @ m.c(y)
    return out


def test_what_a_norm_gives_may_be_of_unlike_size_as_well() -> None:
    """Its gamma takes the factors, which costs nothing: SmoothQuant's migration."""
    net = drawn(Net(_attended, a=nn.LayerNorm(8), b=nn.Linear(8, 8), c=nn.Linear(8, 8)))
    with torch.no_grad():
        net.a.weight[2] *= 40
        net.a.bias[2] *= 40
        for layer in (net.b, net.c):
            layer.weight[:, 2] /= 40
    (inputs,), (fresh,) = data((48, 6, 8)), data((32, 6, 8), seed=5)
    graph, pipeline = fxquant.trace(net, (inputs[:2],)), fxquant.prepare_pipeline()
    noise = []
    for steps in (pipeline, pipeline.before("Annotate", EqualizeLayers(Recipe(), [inputs]))):
        found = fxquant.convert(fxquant.calibrate(steps(graph), [inputs], progress=False))
        noise.append(float((run(found, fresh)[0] - run(net, fresh)[0]).square().mean()))
    (gain,) = gains_of(found)
    assert (gain.places, gain.kept) == (1, 1)
    assert noise[1] < 0.1 * noise[0]


def test_errors_are_measured_against_the_models_own_values(tmp_path: Any) -> None:
    """A value that was divided is compared with the model's, divided alike; also behind a file."""
    net = _depthwise()
    (inputs,) = data((32, 3, 6, 6))
    graph = fxquant.trace(net, (inputs[:2],))
    steps = fxquant.prepare_pipeline().before("Annotate", EqualizeLayers(data=[inputs]))
    quantized = fxquant.convert(fxquant.calibrate(steps(graph), [inputs], progress=False))
    fxquant.save_graph(quantized, tmp_path / "net.fxgraph")
    again = fxquant.load_graph(tmp_path / "net.fxgraph")
    assert gains_of(again) == gains_of(quantized) and dict(equalized(again)) == dict(equalized(quantized))
    for found in (quantized, again):
        layers = fxquant.compare(graph, found, [inputs], progress=False).layers
        assert min(layer.local_db for layer in layers) > 30
    told = fxquant.report(again).text()
    assert "EqualizeLayers: 2 of 2, their layers" in told


def test_a_rule_of_the_recipe_says_how_its_layers_are_rounded() -> None:
    net = _depthwise()
    (inputs,) = data((32, 3, 6, 6))
    coarse = replace(Recipe.from_dict({"rules": [{"match": "b", "weight": {"bits": 2}}]}))
    plain, told = (gains_of(EqualizeLayers(r, [inputs])(traced(net, inputs)))[0] for r in (Recipe(), coarse))
    assert told.before < plain.before - 6
