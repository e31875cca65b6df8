"""The report: what it counts, what it explains, what it measures; and that it survives saving."""

from __future__ import annotations

import json
import math
from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import FxquantError, StageError
from fxquant.gains import EXACT_DB
from fxquant.names import find
from fxquant.tools.report_records import Report
from fxquant.tools.report_table import quantity, size


class Net(nn.Module):
    """A shortcut over a convolution, a cumulative sum that stays float, a linear layer."""

    def __init__(self) -> None:
        super().__init__()
        self.first = nn.Sequential(nn.Conv2d(3, 8, 3, padding=1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.second = nn.Conv2d(8, 8, 3, padding=1, groups=8)
        self.head = nn.Linear(8, 5)

    def forward(self, x: Tensor) -> Tensor:
        """Images to logits."""
        x = self.first(x)
        x = torch.relu(x + self.second(x))
        x = torch.cumsum(x, 3).mean((2, 3))
        y: Tensor = self.head(x)
        return y


@pytest.fixture(scope="module")
def samples() -> Tensor:
    return torch.randn(16, 3, 8, 8, generator=torch.Generator().manual_seed(0))


@pytest.fixture(scope="module")
def model() -> nn.Module:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return Net().eval()


@pytest.fixture(scope="module")
def graph(model: nn.Module, samples: Tensor) -> fx.GraphModule:
    return fxquant.trace(model, samples[:2])


@pytest.fixture(scope="module")
def quantized(graph: fx.GraphModule, samples: Tensor) -> fx.GraphModule:
    return fxquant.quantize(graph, list(torch.chunk(samples, 4)), progress=False)


@pytest.fixture(scope="module")
def found(quantized: fx.GraphModule, graph: fx.GraphModule, samples: Tensor) -> Report:
    return fxquant.report(quantized, graph, torch.chunk(samples, 2))


def test_multiply_accumulates_are_counted_for_one_sample(found: Report) -> None:
    first, second, head = 8 * 64 * 27, 8 * 64 * 9, 8 * 5
    assert found.macs == first + second + head
    assert found.float_macs == 0
    assert found.node("linear").macs in (0, head)


def test_constants_are_counted_as_they_lie_in_the_graph(found: Report, quantized: fx.GraphModule) -> None:
    state = quantized.state_dict().values()
    assert found.weight_bytes == sum(t.numel() * t.element_size() for t in state)
    parameters = 8 * 27 + 8 + 8 * 9 + 8 + 8 * 5 + 5
    assert found.float_weight_bytes == 4 * parameters


def test_activations_alive_at_once_are_the_two_ends_of_a_float_layer(found: Report) -> None:
    assert found.activation_bytes == 2 * 4 * 8 * 64  # cumsum's operand and result, float32


def test_every_stored_value_has_its_range_and_reason(found: Report) -> None:
    stored = [n for n in found.nodes if n.dtype == "int8"]
    assert len(stored) == 6
    for node in stored:
        assert node.range is not None
        assert node.range.reason
        assert node.range.qmin <= node.range.zero_point <= node.range.qmax
        assert node.range.low <= 0.0 <= node.range.high
    relu = found.node("relu")
    assert relu.range is not None
    assert "minmax over 8192 values" in relu.range.reason
    assert "aten.relu gives [0, inf]" in relu.range.reason


def test_accumulators_name_their_weights_and_what_rounds_them(found: Report, quantized: fx.GraphModule) -> None:
    convolutions = [n for n in found.nodes if n.primitive == "fxq.conv"]
    assert [n.dtype for n in convolutions] == ["int32", "int32"]
    assert [n.feeds for n in convolutions] == [found.node("relu").name, found.node("relu_1").name]
    weight = convolutions[0].weight
    assert weight is not None
    assert (weight.shape, weight.bits, weight.per_channel, weight.bytes) == ((8, 3, 3, 3), 8, True, 216)
    node = find(quantized, convolutions[0].name)
    scales = node.meta["fxq.weight_qparams"].scale
    assert (weight.scale_low, weight.scale_high) == (min(scales), max(scales))


def test_multipliers_are_the_ratio_of_scales(found: Report) -> None:
    source, result = found.node("x").range, found.node("relu").range
    weight = next(n for n in found.nodes if n.primitive == "fxq.conv").weight
    assert source is not None and result is not None and weight is not None
    ((low, high),) = found.node("relu").multipliers
    assert low == pytest.approx(weight.scale_low * source.scale / result.scale, rel=1e-6)
    assert high == pytest.approx(weight.scale_high * source.scale / result.scale, rel=1e-6)
    assert len(found.node("relu_1").multipliers) == 2


def test_what_stayed_float_is_named_with_reason_and_line(found: Report) -> None:
    assert not found.is_fully_integer
    (island,) = found.floats
    assert island.operation == "aten.cumsum"
    assert "no integer spelling" in island.reason
    assert "test_report.py" in island.source
    assert "torch.cumsum" in island.source


def test_shapes_show_the_free_batch(found: Report, quantized: fx.GraphModule) -> None:
    assert found.batch == "dynamic"
    assert found.node("relu").shape == ("N", 8, 8, 8)
    assert found.inputs == ("x: float32[N, 3, 8, 8]",)


def test_a_static_batch_says_why(model: nn.Module, samples: Tensor) -> None:
    graph = fxquant.trace(model, samples[:2], dynamic_batch=False)
    result = fxquant.report(fxquant.quantize(graph, [samples[:2]], progress=False))
    assert result.batch == "static: asked for"
    assert result.inputs == ("x: float32[2, 3, 8, 8]",)


def test_errors_are_measured_since_the_input_and_alone(found: Report) -> None:
    assert found.accuracy is not None
    assert found.accuracy.samples == 16
    assert found.accuracy.agreement is not None and found.accuracy.agreement >= 0.8
    for node in found.nodes:
        if node.dtype == "int8":
            assert node.sqnr_db is not None and node.local_sqnr_db is not None
            assert 20 < node.sqnr_db < 70
    assert found.node("x").sqnr_db == found.node("x").local_sqnr_db
    deep = found.node("relu_1")
    assert deep.local_sqnr_db is not None and deep.sqnr_db is not None
    assert deep.local_sqnr_db > deep.sqnr_db


def test_output_error_is_the_one_measured_by_hand(
    found: Report, quantized: fx.GraphModule, model: nn.Module, samples: Tensor
) -> None:
    with torch.no_grad():
        real, close = model(samples).double(), quantized(samples).double()
    by_hand = 10 * math.log10(float(real.square().sum() / (real - close).square().sum()))
    assert found.accuracy is not None
    assert found.accuracy.output_sqnr_db[0] == pytest.approx(by_hand, abs=1e-3)


def test_the_model_itself_serves_as_reference(quantized: fx.GraphModule, model: nn.Module, samples: Tensor) -> None:
    assert fxquant.report(quantized, model, samples[:4]).node("relu").sqnr_db is not None


def test_perfect_integers_are_exact() -> None:
    class Same(nn.Module):
        def forward(self, x: Tensor) -> Tensor:
            return torch.relu(x)

    x = torch.arange(-128, 127).float().reshape(1, 255)
    graph = fxquant.trace(Same(), x)
    recipe = {"activation": {"qmin": -128, "qmax": 127, "symmetric": True}}
    result = fxquant.report(fxquant.quantize(graph, [x * 127 / 128], recipe=recipe, progress=False), graph, x * 0)
    assert result.node("x").sqnr_db == EXACT_DB


def test_json_holds_everything_in_plain_numbers(found: Report) -> None:
    data = json.loads(json.dumps(found.to_json(), allow_nan=False))
    assert data["is_fully_integer"] is False
    assert len(data["nodes"]) == len(found.nodes)
    assert data["nodes"][0]["range"]["reason"] == found.nodes[0].range.reason  # type: ignore[union-attr]
    assert data["accuracy"]["samples"] == 16


def test_the_tables_show_nodes_reasons_floats_and_totals(found: Report) -> None:
    text = str(found)
    for expected in ("conv >", "conv > add", "minmax over", "aten.cumsum", "dynamic", "dB over 16 samples"):
        assert expected in text
    assert found._repr_html_().startswith("<pre>")
    assert "1 of them stayed float" in found.summary()


def test_a_saved_graph_is_reported_like_the_original(
    quantized: fx.GraphModule, samples: Tensor, tmp_path: Path
) -> None:
    fxquant.save_graph(quantized, tmp_path / "net.fxgraph")
    read = fxquant.load_graph(tmp_path / "net.fxgraph")
    for again, original in zip(fxquant.report(read).nodes, fxquant.report(quantized).nodes, strict=True):
        assert again == original
    assert fxquant.report(read) == fxquant.report(quantized)
    assert torch.equal(read(samples), quantized(samples))
    name = fxquant.report(quantized).node("relu_1").name
    assert fxquant.why(read, name) == fxquant.why(quantized, name)


def test_why_answers_for_integers_accumulators_and_floats(quantized: fx.GraphModule, found: Report) -> None:
    assert "aten.relu gives [0, inf]" in fxquant.why(quantized, "relu")
    assert "float, because aten.cumsum has no integer spelling" in fxquant.why(quantized, "cumsum")
    convolution = next(n.name for n in found.nodes if n.primitive == "fxq.conv")
    assert f"32-bit accumulators, rounded by {found.node('relu').name}" in fxquant.why(quantized, convolution)
    with pytest.raises(FxquantError, match=r"no value called 'relu_11'.*did you mean .*relu_1"):
        fxquant.why(quantized, "relu_11")


def test_a_float_graph_is_refused(graph: fx.GraphModule) -> None:
    with pytest.raises(StageError, match="needs an INTEGER graph, this one is FLOAT"):
        fxquant.report(graph)


def test_data_without_a_model_is_refused(quantized: fx.GraphModule, samples: Tensor) -> None:
    with pytest.raises(FxquantError, match="give report both"):
        fxquant.report(quantized, data=samples)


def test_no_data_is_refused(quantized: fx.GraphModule, graph: fx.GraphModule) -> None:
    with pytest.raises(FxquantError, match="gave nothing"):
        fxquant.report(quantized, graph, [])


def test_an_integer_reference_is_refused(quantized: fx.GraphModule, samples: Tensor) -> None:
    with pytest.raises(FxquantError, match="against a FLOAT graph, this one is INTEGER"):
        fxquant.report(quantized, quantized, samples)


@pytest.mark.parametrize(("count", "text"), [(0, "0"), (999, "999"), (1234567, "1.23 M"), (2.5e9, "2.5 G")])
def test_quantities(count: float, text: str) -> None:
    assert quantity(count) == text


@pytest.mark.parametrize(("count", "text"), [(0, "0 B"), (1536, "1.5 KiB"), (3 << 20, "3.0 MiB")])
def test_sizes(count: int, text: str) -> None:
    assert size(count) == text
