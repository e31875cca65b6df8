"""Weights of few bits in flash: as small as they should be, and exact on every emulated machine."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant import targets
from fxquant.target import Target
from fxquant.targets.standalone.export import standalone
from fxquant.targets.standalone.network import network
from fxquant.tools.emulate import emulate
from tests.endtoend.low_bits import few_bits
from tests.targets.standalone.made import emulated


@pytest.mark.parametrize("target", emulated())
def test_every_operation_with_weights(target: Target) -> None:
    made = standalone(fxquant.integer_ports(few_bits(4, 2)), target, "net")
    assert emulate(made.files, "net", made.report, target).wrong == 0


@pytest.mark.parametrize("target", ["c", "cortex-m4", "cortex-m55"])
def test_constants_shrink(target: str) -> None:
    graphs = (fxquant.integer_ports(few_bits(bits, bits)) for bits in (8, 4, 2))
    sizes = [network(graph, targets.get(target), "net").plan.constant_bytes for graph in graphs]
    assert sizes[1] < 0.75 * sizes[0] and sizes[2] < 0.9 * sizes[1]  # multipliers and biases are many here


def test_the_bits_are_told() -> None:
    model = nn.Sequential(nn.Conv2d(4, 8, 3), nn.ReLU(), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 4, 1))
    x = torch.randn(2, 4, 8, 8)
    graph = fxquant.quantize(fxquant.trace(model.eval(), x), [x], recipe={"weight": {"bits": 4}}, progress=False)
    made = standalone(fxquant.integer_ports(graph), targets.get("c"), "net")
    assert [layer["weight_bits"] for layer in made.report["layers"] if layer["macs"]] == [8, 4, 8]
    assert "; weights have 4 bits in 1 layer, 8 bits in 2 layers." in str(made.files["net.h"])
