"""What a layer's error is made of, against its definition; and the channels that stand out."""

from __future__ import annotations

import math
from dataclasses import astuple

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant.gains import EXACT_DB
from fxquant.graph import calls, constant_value
from fxquant.tools.compare.parts import Channels
from fxquant.tools.compare.records import Layer, Parts
from tests.passes.graphs import Net, batches, data, drawn

fxq = torch.ops.fxq


def _db(real: Tensor, close: Tensor) -> float:
    return 10 * math.log10(float(real.double().square().sum() / (real.double() - close.double()).square().sum()))


def _compared(net: nn.Module, calibration: Tensor, inputs: Tensor, **options: object) -> tuple[fx.GraphModule, Layer]:
    """The integers, and the layer whose value is the first product's."""
    graph = fxquant.trace(net, calibration[:2])
    quantized = fxquant.quantize(graph, [calibration], progress=False, **options)  # type: ignore[arg-type]
    found = fxquant.compare(graph, quantized, batches(inputs, 16), progress=False)
    return quantized, next(layer for layer in found.layers if layer.parts.weights is not None)


@pytest.mark.parametrize("recipe", [{}, {"weight": {"axis": None}}, {"activation": {"bits": 16}}], ids=str)
def test_parts_are_what_they_say(recipe: dict[str, object]) -> None:
    torch.manual_seed(0)
    layer = nn.Conv2d(8, 12, 3, padding=1, groups=2)
    x, fresh = torch.randn(32, 8, 6, 6), 1.2 * torch.randn(32, 8, 6, 6)
    quantized, found = _compared(nn.Sequential(layer).eval(), x, fresh, recipe=recipe)
    (product,) = calls(quantized.graph, fxq.conv.default)
    (read,) = calls(quantized.graph, fxq.quantize.default)
    weight, operand = product.meta["fxq.weight_qparams"], read.meta["fxq.range"].qparams
    rounded = weight.rounded(layer.weight.detach())
    steps = torch.tensor(weight.scale).reshape(-1) * operand.one_scale
    bias = constant_value(quantized, product.args[2]) * steps  # type: ignore[arg-type]
    with torch.no_grad():
        real = layer(fresh)
        by_weights = F.conv2d(fresh, rounded, bias, padding=1, groups=2)
        by_both = F.conv2d(operand.rounded(fresh), rounded, bias, padding=1, groups=2)
    low, high = found.range
    cut = real.clamp(low, high)
    assert found.parts.weights == pytest.approx(_db(real, by_weights), abs=0.05)
    noise = float((by_both - by_weights).double().square().sum())
    signal = float(real.double().square().sum())
    assert found.parts.operands == pytest.approx(10 * math.log10(signal / noise), abs=0.05)
    if found.clipped:
        assert found.parts.clipping == pytest.approx(_db(real, cut), abs=0.05)
    (made,) = calls(quantized.graph, fxq.requantize.default)
    lost = float((made.meta["fxq.range"].qparams.rounded(real) - cut).double().square().sum())
    assert found.parts.rounding == pytest.approx(10 * math.log10(signal / lost), abs=0.05)


def test_the_origin_is_found() -> None:
    """A weight that spoils its layer's scale; data beyond what was calibrated; neither."""
    torch.manual_seed(0)
    x = torch.randn(64, 16)
    bad = nn.Linear(16, 8)
    spoiled = nn.Sequential(bad).eval()
    with torch.no_grad():
        bad.weight[:, 0] = 300.0
    empty = x.clone()
    empty[:, 0] = 0.0
    assert _compared(spoiled, empty, empty)[1].parts.worst == "weights"
    usual = nn.Sequential(nn.Linear(16, 8)).eval()
    assert _compared(usual, x, 20 * x)[1].parts.worst in ("clipping", "operands")
    assert _compared(usual, x, x)[1].parts.clipping > 60


def test_parts_of_equalized_layers_are_small() -> None:
    """Weights and values are divided by factors there: what is compared is divided alike."""
    first = nn.Conv2d(3, 8, 3)
    net = drawn(Net(lambda m, x: m.b(F.relu(m.a(x))), a=first, b=nn.Conv2d(8, 4, 3)))
    with torch.no_grad():
        first.weight *= torch.logspace(-1.5, 1.2, 8).reshape(-1, 1, 1, 1)
    (x,) = data((64, 3, 8, 8))
    graph = fxquant.trace(net, x[:2])
    quantized = fxquant.quantize(graph, batches(x, 16), effort="balanced", progress=False)
    found = fxquant.compare(graph, quantized, [x], progress=False)
    parts = [layer.parts for layer in found.layers if layer.parts.weights is not None]
    assert len(parts) == 2 and all(min(db for db in astuple(part)) > 25 for part in parts)


def test_channels_that_stand_out_are_named() -> None:
    torch.manual_seed(0)
    first = nn.Linear(16, 16)
    net = nn.Sequential(first, nn.ReLU(), nn.Linear(16, 4)).eval()
    with torch.no_grad():
        first.weight[5] *= 100
    x = torch.randn(64, 16)
    graph = fxquant.trace(net, x[:2])
    found = fxquant.compare(graph, fxquant.quantize(graph, [x], progress=False), batches(x, 16), progress=False)
    outlier = found.layer("relu").outlier
    assert outlier is not None and (outlier.axis, outlier.channel) == (1, 5) and 40 < outlier.times < 300
    assert found.layers[0].outlier is None and found.layers[-1].outlier is None
    assert "channel 5 of axis 1 is" in found.text(200) and "mostly" in found.text(200)


def test_an_axis_whose_length_changes_has_no_channels() -> None:
    seen = Channels()
    for length in (4, 6):
        values = torch.ones(2, length, 3)
        values[..., 1] = 50.0
        values[:, 2] *= 90.0
        seen.add(values)
    outlier = seen.outlier()
    assert outlier is not None and (outlier.axis, outlier.channel, outlier.times) == (2, 1, 50.0)
    assert Channels().outlier() is None


def test_the_worst_part_is_the_one_with_the_fewest_decibels() -> None:
    assert Parts(None, None, 40.0, 30.0).worst == "clipping"
    assert Parts(20.0, 25.0, 40.0, EXACT_DB).worst == "weights"
