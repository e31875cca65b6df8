"""A network that is slower in integers than in float is told when it is compiled, with the layers responsible."""

from __future__ import annotations

import json
import warnings
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn
from typer.testing import CliRunner

import fxquant
from fxquant import targets
from fxquant.api import compile_artifact
from fxquant.cli import app
from fxquant.graph import calls
from fxquant.targets.batch import sample_values
from fxquant.tools import speed as module
from fxquant.tools.speed import LayerSpeed, Speed, measure_speed

NATIVE = targets.get("native")
# Ranges that need 16 bits run through plain loops.
WIDE = {"activation": {"qmin": -2048, "qmax": 2047}}


def net(recipe: object = None) -> fx.GraphModule:
    """All kinds of products, enough of them to be measured."""
    torch.manual_seed(0)
    model = nn.Sequential(
        nn.Conv2d(16, 64, 3, padding=1), nn.ReLU(), nn.Conv2d(64, 64, 3, padding=1), nn.ReLU(),
        nn.ConvTranspose2d(64, 16, 2, 2), nn.AvgPool2d(8), nn.Flatten(), nn.Linear(16 * 36, 32),
    )  # fmt: skip
    x = torch.randn(2, 16, 24, 24)
    return fxquant.quantize(fxquant.trace(model.eval(), x), [x], recipe=recipe, progress=False)  # type: ignore[arg-type]


def test_nothing_is_said_of_a_fast_network() -> None:
    graph = net("native")
    found = measure_speed(graph, compile_artifact(graph, NATIVE, "net"), NATIVE)
    assert found is not None and not found.is_slower and not found.layers
    assert "for the products alone" in str(found)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fxquant.compile(graph)


class Scores(nn.Module):
    """Products of two 16-bit activations, which are plain loops everywhere."""

    def __init__(self) -> None:
        super().__init__()
        self.point = nn.Linear(64, 64)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 256, 64) -> (N, 256, 256)."""
        y = self.point(x)
        found: Tensor = y @ y.transpose(1, 2)
        return found


def test_a_slow_network_and_its_layers_are_named() -> None:
    torch.manual_seed(0)
    x = torch.randn(2, 256, 64)
    graph = fxquant.quantize(
        fxquant.trace(Scores().eval(), x), [x], recipe={"activation": {"bits": 16}}, progress=False
    )
    with pytest.warns(UserWarning, match="model is slower than float: .* layers responsible: matmul "):
        fxquant.compile(graph)
    found = measure_speed(graph, compile_artifact(graph, NATIVE, "net"), NATIVE)
    assert found is not None and found.is_slower
    assert found.compiled == pytest.approx(sum(layer.compiled for layer in found.layers))
    assert found.responsible[0].name == "matmul"
    assert all(layer.compiled > layer.in_float for layer in found.responsible)
    with warnings.catch_warnings():
        warnings.simplefilter("error", UserWarning)
        fxquant.compile(graph, against_float=False)


def test_who_loses_most_comes_first() -> None:
    layers = (LayerSpeed("a", 2.0, 1.0), LayerSpeed("b", 1.0, 9.0), LayerSpeed("c", 9.0, 2.0))
    found = Speed(12.0, 11.0, layers)
    assert [layer.name for layer in found.responsible] == ["c", "a"]
    assert found.to_json()["responsible"] == ["c", "a"] and found.to_json()["is_slower"]
    assert str(found) == (
        "slower than float: 0.012 ms compiled, 0.011 ms in PyTorch's float32, on one thread; "
        "layers responsible: c (9 us, float 2), a (2 us, float 1)"
    )


def test_every_product_has_its_float() -> None:
    graph = net()
    values = sample_values(graph)
    found = module._products(graph, values)
    assert set(found) == {"0", "2", "4", "7"}
    for node in calls(graph.graph, *module._PRODUCTS):
        made = module._in_float(node, values)()
        assert made.shape == values[node].shape and made.dtype == torch.float32


def test_threads_are_left_as_they_were() -> None:
    before, graph = torch.get_num_threads(), net()
    artifact = compile_artifact(graph, NATIVE, "net")
    torch.set_num_threads(2)
    try:
        measure_speed(graph, artifact, NATIVE)
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_another_machine_s_code_is_not_timed(monkeypatch: pytest.MonkeyPatch) -> None:
    graph = net()
    artifact = compile_artifact(graph, NATIVE, "net")
    monkeypatch.setattr(module, "host_features", lambda: frozenset())
    assert measure_speed(graph, artifact, NATIVE) is None


def test_the_shell_tells(tmp_path: Path) -> None:
    fxquant.save_graph(net("native"), tmp_path / "net.fxgraph")
    spec = ["compile", str(tmp_path / "net.fxgraph"), "-o", str(tmp_path / "net.fxq")]
    found = json.loads(CliRunner().invoke(app, [*spec, "--json"], catch_exceptions=False).output)
    assert found["speed"]["compiled"] < found["speed"]["in_float"] and not found["speed"]["is_slower"]
    assert "in PyTorch's float32" in CliRunner().invoke(app, spec, env={"COLUMNS": "200"}).output
