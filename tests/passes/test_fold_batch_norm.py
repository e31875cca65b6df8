"""FoldBatchNorm: into the layer before where nothing else reads it, else a depthwise 1x1 of its own."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.passes import FoldBatchNorm
from tests.passes.graphs import Net, assert_same, data, drawn, shown, traced


def _norms_left(module: Any) -> list[str]:
    return [n.name for n in module.graph.nodes if str(n.target).startswith("aten.") and "batch_norm" in str(n.target)]


def test_after_a_convolution(golden: Callable[[str], None]) -> None:
    net = drawn(Net(lambda m, x: F.relu(m.norm(m.conv(x))), conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    inputs = data((2, 3, 5, 5))
    before = traced(net, *inputs)
    after = FoldBatchNorm()(before)
    golden(shown(before, after))
    assert_same(net, after, *inputs)


def test_where_another_reads_the_convolution(golden: Callable[[str], None]) -> None:
    def forward(m: Any, x: Tensor) -> Tensor:
        y: Tensor = m.conv(x)
        return m.norm(y) + y  # type: ignore[no-any-return]

    net = drawn(Net(forward, conv=nn.Conv2d(3, 4, 3), norm=nn.BatchNorm2d(4)))
    inputs = data((2, 3, 5, 5))
    before = traced(net, *inputs)
    after = FoldBatchNorm()(before)
    golden(shown(before, after))
    assert_same(net, after, *inputs)


LAYERS = {
    "conv1d": (nn.Conv1d(4, 6, 3, bias=False), nn.BatchNorm1d(6), (2, 4, 9)),
    "grouped": (nn.Conv2d(4, 6, 3, groups=2), nn.BatchNorm2d(6), (2, 4, 5, 5)),
    "depthwise": (nn.Conv2d(4, 4, 3, groups=4), nn.BatchNorm2d(4, affine=False), (2, 4, 5, 5)),
    "linear": (nn.Linear(4, 6), nn.BatchNorm1d(6), (2, 4)),
    "linear without bias": (nn.Linear(4, 6, bias=False), nn.BatchNorm1d(6, eps=0.1), (2, 4)),
    "transposed": (nn.ConvTranspose2d(4, 6, 3, stride=2), nn.BatchNorm2d(6), (2, 4, 5, 5)),
    "transposed 1d": (nn.ConvTranspose1d(4, 6, 3, stride=2), nn.BatchNorm1d(6), (2, 4, 5)),
    "grouped transposed": (nn.ConvTranspose2d(4, 6, 3, groups=2, bias=False), nn.BatchNorm2d(6), (2, 4, 5, 5)),
}


@pytest.mark.parametrize("kind", LAYERS)
def test_into_every_kind_of_layer(kind: str) -> None:
    layer, norm, shape = LAYERS[kind]
    net = drawn(Net(lambda m, x: m.norm(m.layer(x)), layer=layer, norm=norm))
    inputs = data(shape)
    after = FoldBatchNorm()(traced(net, *inputs))
    assert not _norms_left(after)
    assert len([n for n in after.graph.nodes if n.op == "call_function"]) == 1
    assert_same(net, after, *inputs, atol=1e-4)


ALONE = {"vector": (2, 4), "signal": (2, 4, 7), "image": (2, 4, 3, 3)}


@pytest.mark.parametrize("kind", ALONE)
def test_alone(kind: str) -> None:
    norm = nn.BatchNorm2d(4) if kind == "image" else nn.BatchNorm1d(4)
    net = drawn(Net(lambda m, x: m.norm(x), norm=norm))
    inputs = data(ALONE[kind])
    after = FoldBatchNorm()(traced(net, *inputs))
    assert not _norms_left(after)
    assert_same(net, after, *inputs)


def test_a_linear_layer_over_signals_keeps_its_norm_apart() -> None:
    """There the norm's channels are not the layer's features."""
    net = drawn(Net(lambda m, x: m.norm(m.fc(x)), fc=nn.Linear(5, 4), norm=nn.BatchNorm1d(4)))
    inputs = data((2, 4, 5))
    after = FoldBatchNorm()(traced(net, *inputs))
    assert not _norms_left(after)
    assert_same(net, after, *inputs)


def test_shared_weights_are_not_scaled_twice() -> None:
    conv = nn.Conv2d(3, 3, 1)
    net = drawn(Net(lambda m, x: m.b(m.conv(m.a(m.conv(x)))), conv=conv, a=nn.BatchNorm2d(3), b=nn.BatchNorm2d(3)))
    inputs = data((2, 3, 4, 4))
    weight = conv.weight.detach().clone()
    after = FoldBatchNorm()(traced(net, *inputs))
    assert_same(net, after, *inputs)
    assert weight.equal(conv.weight)
