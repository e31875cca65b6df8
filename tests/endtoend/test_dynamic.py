"""Ranges found at run time: Python and compiled code agree to the bit, floats between the layers included."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, reject, settings
from torch import Tensor, nn

import fxquant
from fxquant.errors import CalibrationError, FxquantError, LoweringError
from tests import zoo
from tests.endtoend.networks import SPECIALS, Network, is_refusal, runnable_targets
from tests.endtoend.strategy import networks
from tests.endtoend.test_zoo_exact import decibels
from tests.zoo.bert import BertEncoder
from tests.zoo.vit import VisionTransformer

# Their float operations are such that one rounding per element defines them.
EXACT = ("resnet8", "resnet18", "mobilenet_v2", "squeezenet1_1", "ds_cnn", "autoencoder")
ROUNDED_ONCE = ("add", "relu", "hardtanh", "relu6", "mul", "reshape", "view", "cat", "max_pool", "slice", "transpose",
                "permute", "unsqueeze", "squeeze", "select", "sub", "clamp", "expand", "flatten")  # fmt: skip
# Two that are quick to compile: attention written out, and torch's own.
TRANSFORMERS: dict[str, nn.Module] = {
    "vit": VisionTransformer(size=48, width=48, depth=2, classes=7),
    "bert": BertEncoder(width=48, depth=2, heads=3),
}


def _same(quantized: Any, net: Any, *inputs: Tensor) -> Tensor:
    with torch.no_grad():
        expected: Tensor = quantized(*inputs)
    found = net(*inputs)
    assert found.dtype == expected.dtype and torch.equal(found, expected)
    return expected


@pytest.mark.parametrize("name", EXACT)
def test_networks_need_no_calibration_and_are_exact(name: str) -> None:
    model = zoo.build(name)
    x = zoo.inputs(name, 2, 3)
    quantized = fxquant.quantize(fxquant.trace(model, x), recipe="dynamic")
    with fxquant.compile(quantized, threads=2) as two, fxquant.CompiledModel(two.artifact, 1) as one:
        for batch in (x, zoo.inputs(name, 3, 4)):
            for net in (one, two):
                found = _same(quantized, net, *batch)
            for number in range(len(batch[0])):
                assert torch.equal(two(*(t[number : number + 1] for t in batch)), found[number : number + 1])


@pytest.mark.parametrize("target", runnable_targets())
@pytest.mark.parametrize("name", ["resnet8", "ds_cnn", "conv1d"])
def test_every_instruction_set(name: str, target: str) -> None:
    x = zoo.inputs(name, 2, 3)
    quantized = fxquant.quantize(fxquant.trace(zoo.build(name), x), recipe="dynamic")
    with fxquant.compile(quantized, target) as net:
        _same(quantized, net, *x)


@pytest.mark.parametrize("name", TRANSFORMERS)
def test_transformers_are_exact_and_multiply_integers(name: str) -> None:
    model = TRANSFORMERS[name].eval()
    x = torch.randn(2, 3, 48, 48) if name == "vit" else torch.randn(2, 19, 48)
    graph = fxquant.trace(model, x)
    quantized = fxquant.quantize(graph, recipe="dynamic")
    report = fxquant.report(quantized, graph, x)
    assert report.float_macs == 0 and report.macs > 0
    told = {f.operation.removeprefix("aten.").partition(".")[0]: f.in_vectors for f in report.floats}
    assert {name for name, ours in told.items() if ours} == {"fxq"} and told["add"] is False
    assert _is_defined(quantized)
    with torch.no_grad():
        assert decibels(model(x), quantized(x)) > 25
    for target in runnable_targets():
        with fxquant.compile(quantized, target, threads=2, against_float=False) as net:
            for batch in (x, x * 30, -x[:1]):
                whole = _same(quantized, net, batch)
                assert torch.equal(quantized(batch[:1]), whole[:1])


class Block(nn.Module):
    """A residual in float, channels that fill no vector, a result that is an image, and one that is not."""

    def __init__(self) -> None:
        super().__init__()
        self.stem = nn.Conv2d(3, 21, 3, padding=1)
        self.deep = nn.Conv2d(21, 21, 3, padding=1, groups=21)
        self.wide = nn.Conv2d(21, 21, 3, padding=1)
        self.up = nn.ConvTranspose2d(21, 5, 2, 2)
        self.head = nn.Linear(21, 4)

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """Three kinds of results."""
        a = torch.relu(self.stem(x))
        b = torch.relu(a + self.wide(nn.functional.hardtanh(self.deep(a), -2.0, 3.0)))
        return b, self.up(b), self.head(b.mean((2, 3)))


@pytest.mark.parametrize("free", [True, False])
def test_numbers_that_are_none(free: bool) -> None:
    torch.manual_seed(3)
    model, x = Block().eval(), torch.randn(2, 3, 9, 11)
    quantized = fxquant.quantize(fxquant.trace(model, x, dynamic_batch=free), recipe="dynamic")
    with torch.no_grad():
        assert all(decibels(a, b) > 25 for a, b in zip(model(x), quantized(x), strict=True))
    batches = [x, x * 1e-30, x * 1e30, x * 0.0]
    strange = x.clone()
    strange.view(-1)[:: x.numel() // len(SPECIALS)][: len(SPECIALS)] = torch.tensor(SPECIALS)
    with fxquant.compile(quantized) as net:
        for batch in [*batches, strange]:
            with torch.no_grad():
                expected = quantized(batch)
            for found, wanted in zip(net(batch), expected, strict=True):
                assert torch.equal(found, wanted)
                assert bool(torch.isfinite(found).all()) or batch is not x


def _is_defined(quantized: Any) -> bool:
    islands = [str(n.target) for n in quantized.graph.nodes if n.meta.get("fxq.island")]
    defined = ("fxq.", *(f"aten.{good}" for good in ROUNDED_ONCE))
    return all(name.startswith(defined) for name in islands)


def test_a_batch_that_is_moved_to_another_axis_has_no_scale_of_its_own() -> None:
    """einsum makes one row of all samples; each sample's result must not depend on the others."""

    class Rows(nn.Module):
        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.einsum("bnd,de->bne", x.square(), torch.ones(7, 1)).amax((2,))

    x = torch.randn(3, 9, 7) * torch.tensor([1.0, 100.0, 0.01]).reshape(3, 1, 1)
    quantized = fxquant.quantize(fxquant.trace(Rows(), x), recipe="dynamic")
    found = quantized(x)
    alone = torch.cat([quantized(x[i : i + 1]) for i in range(3)])
    assert found.shape == (3, 9) and torch.allclose(found, alone, rtol=1e-5)


@settings(max_examples=7, deadline=None, derandomize=True, database=None, suppress_health_check=list(HealthCheck))
@given(data=networks())
def test_random_networks(data: Network) -> None:
    try:
        traced = fxquant.trace(data.build(), data.data(2, 0), dynamic_batch=data.dynamic)
        quantized = fxquant.quantize(traced, recipe={"activation": {"dynamic": True}})
        net = fxquant.compile(quantized)
    except FxquantError as error:
        if not (is_refusal(error) or isinstance(error, LoweringError)):
            raise
        reject()
    with net:
        inputs = data.data(2, 7)
        with torch.no_grad():
            expected = quantized(*inputs)
        several = expected if isinstance(expected, tuple) else (expected,)
        compiled = net(*inputs)
        for found, wanted in zip(compiled if isinstance(compiled, tuple) else (compiled,), several, strict=True):
            assert found.shape == wanted.shape
            if _is_defined(quantized):
                assert torch.equal(found.nan_to_num(0.5), wanted.nan_to_num(0.5))


def test_a_saved_graph_is_the_same(tmp_path: Path) -> None:
    x = zoo.inputs("resnet8", 2, 3)
    quantized = fxquant.quantize(fxquant.trace(zoo.build("resnet8"), x), recipe="dynamic")
    fxquant.save_graph(quantized, tmp_path / "net.fxgraph")
    again = fxquant.load_graph(tmp_path / "net.fxgraph")
    with torch.no_grad():
        assert torch.equal(again(*x), quantized(*x))
    with fxquant.compile(again) as net:
        _same(quantized, net, *x)


def test_what_is_told() -> None:
    x = zoo.inputs("resnet8", 2, 3)
    graph = fxquant.trace(zoo.build("resnet8"), x)
    quantized = fxquant.quantize(graph, recipe="dynamic")
    report = fxquant.report(quantized, graph, *x)
    assert {f.operation for f in report.floats} == {"aten.relu", "aten.add.Tensor"}
    assert all("at run time" in f.reason for f in report.floats)
    scale = next(n.name for n in quantized.graph.nodes if "quantize_dynamic" in n.name)
    assert "each sample's own" in fxquant.why(quantized, scale)


def test_standalone_code_refuses_and_says_why(tmp_path: Path) -> None:
    x = zoo.inputs("resnet8", 2, 3)
    quantized = fxquant.quantize(fxquant.trace(zoo.build("resnet8"), x), recipe="dynamic")
    with pytest.raises(LoweringError, match="found at run time"):
        fxquant.export(quantized, "cortex-m4", tmp_path / "out")
    assert not (tmp_path / "out").exists()


def test_static_ranges_still_need_data() -> None:
    x = zoo.inputs("resnet8", 2, 3)
    with pytest.raises(CalibrationError, match="no calibration data"):
        fxquant.quantize(fxquant.trace(zoo.build("resnet8"), x))
