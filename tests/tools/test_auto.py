"""The recipe auto: which layers get ranges of run time, why, and that this is told."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant.choices import choice_of, choices_of
from fxquant.errors import CalibrationError, RecipeError
from fxquant.recipe import Recipe
from fxquant.source import target_name
from fxquant.tools.auto import ENOUGH, settled
from tests.endtoend.test_zoo_exact import decibels


class Loudness(nn.Module):
    """`quiet` sees samples of all sizes, `even` and what follows it such of one size."""

    def __init__(self) -> None:
        super().__init__()
        self.quiet = nn.Linear(24, 24)
        self.even = nn.Linear(24, 24)
        self.last = nn.Linear(24, 5)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """Both results."""
        return F.gelu(self.quiet(x)), self.last(F.relu(self.even(F.normalize(x, dim=-1))))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    torch.manual_seed(0)
    return Loudness().eval()


@pytest.fixture(scope="module")
def data() -> list[Tensor]:
    """Samples whose sizes are up to a thousand times apart."""
    generator = torch.Generator().manual_seed(1)
    sizes = torch.logspace(-2, 1, 8).reshape(8, 1, 1)
    return [torch.randn(8, 7, 24, generator=generator) * sizes for _ in range(4)]


@pytest.fixture(scope="module")
def graph(model: nn.Module, data: list[Tensor]) -> fx.GraphModule:
    return fxquant.trace(model, data[0])


@pytest.fixture(scope="module")
def chosen(graph: fx.GraphModule, data: list[Tensor]) -> fx.GraphModule:
    return fxquant.quantize(graph, data, recipe="auto", progress=False)


def test_what_varies_from_sample_to_sample_has_a_range_of_run_time(chosen: fx.GraphModule) -> None:
    found = {choice.layer: choice for choice in choices_of(chosen)}
    assert found["quiet"].dynamic and found["quiet"].gain > 2 * ENOUGH
    assert not found["even"].dynamic and not found["last"].dynamic
    assert all(found[name].gain < ENOUGH for name in ("even", "last"))
    names = [target_name(node) for node in chosen.graph.nodes if node.op == "call_function"]
    assert names.count("fxq.dynamic_scale") == 1 and names.count("fxq.rescale_real") == 1


def test_quiet_samples_gain_by_it(
    chosen: fx.GraphModule, graph: fx.GraphModule, model: nn.Module, data: list[Tensor]
) -> None:
    fixed = fxquant.quantize(graph, data, progress=False)
    quiet = data[0][:2]
    with torch.no_grad():
        real, auto, static = (module(quiet)[0] for module in (model, chosen, fixed))
        assert decibels(real, auto) > decibels(real, static) + 6
        with fxquant.compile(chosen, against_float=False) as net:
            assert all(torch.equal(a, b) for a, b in zip(net(data[1]), chosen(data[1]), strict=True))


def test_it_is_told_and_kept(chosen: fx.GraphModule, tmp_path: Path) -> None:
    report = fxquant.report(chosen)
    assert report.choices == choices_of(chosen)
    assert "fixed ranges or such of run time" in str(report)
    assert report.to_json()["choices"][0]["layer"] == report.choices[0].layer
    assert "a range of run time, because each sample's own leaves" in fxquant.why(chosen, "quiet")
    assert "a fixed range, because each sample's own would leave" in fxquant.why(chosen, "last")
    fxquant.save_graph(chosen, tmp_path / "net.fxg")
    assert choices_of(fxquant.load_graph(tmp_path / "net.fxg")) == choices_of(chosen)


class Attention(nn.Module):
    """Scores of all sizes, so that softmax and both products want ranges of run time."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, 9, 16)."""
        return (x @ x.transpose(1, 2)).softmax(-1) @ x


def test_what_only_such_layers_read_is_not_rounded_before() -> None:
    torch.manual_seed(0)
    data = [torch.randn(8, 9, 16) * torch.logspace(-1.5, 0.5, 8).reshape(8, 1, 1) for _ in range(3)]
    graph = fxquant.trace(Attention(), data[0])
    quantized = fxquant.quantize(graph, data, recipe="auto", progress=False)
    softmax = choice_of(quantized, "softmax")
    assert softmax is not None and softmax.dynamic and "only layers with ranges of run time" in softmax.reason
    assert not [n for n in quantized.graph.nodes if target_name(n) == "fxq.quantize"]
    strict = fxquant.quantize(graph, data, recipe=Recipe(auto=True, strict=True), progress=False)
    assert choice_of(strict, "softmax") is None


def test_rules_of_the_user_stand(graph: fx.GraphModule, data: list[Tensor]) -> None:
    recipe = Recipe.from_dict({"auto": True, "rules": [{"match": "quiet", "activation": {"bits": 8}}]})
    found, choices = settled(graph, data, recipe, progress=False)
    assert not found.auto and found.rules == recipe.rules
    assert "quiet" not in [choice.layer for choice in choices]


def test_without_data_all_ranges_are_of_run_time(graph: fx.GraphModule, data: list[Tensor]) -> None:
    quantized = fxquant.quantize(graph, recipe="auto")
    assert [c.layer for c in choices_of(quantized) if c.dynamic] == ["quiet", "even", "last"]
    assert all("no calibration data" in choice.reason for choice in choices_of(quantized))


def test_bad_input_is_named(graph: fx.GraphModule, data: list[Tensor]) -> None:
    with pytest.raises(CalibrationError, match="generator"):
        fxquant.quantize(graph, (x for x in data), recipe="auto")
    with pytest.raises(RecipeError, match="left to data"):
        fxquant.prepare(graph, "auto")
    with pytest.raises(RecipeError, match="chooses between"):
        Recipe.from_dict({"auto": True, "activation": {"dynamic": True}})
