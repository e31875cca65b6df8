"""IntegerPorts: the caller quantizes."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import nn

import fxquant
from fxquant.errors import LoweringError
from fxquant.graph import outputs, placeholders, text
from fxquant.passes import IntegerPorts
from fxquant.qparams import QParams


class Twice(nn.Module):
    """One input, two outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.layer = nn.Linear(4, 3)

    def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
        """x (N, 4)."""
        y = torch.relu(self.layer(x))
        return y, y + 1.0


def quantized(model: nn.Module, x: torch.Tensor) -> torch.fx.GraphModule:
    return fxquant.quantize(fxquant.trace(model.eval(), x), [x], progress=False)


def test_ports_become_integers(golden: Callable[[str], None]) -> None:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        x = torch.randn(8, 4)
        graph = quantized(Twice(), x)
    before = graph(x)
    plain = IntegerPorts()(graph)
    port = placeholders(plain.graph)[0].meta["fxq.port"]
    assert isinstance(port, QParams)
    found = plain(port.quantize(x))
    for node, integers, real in zip(outputs(plain.graph), found, before, strict=True):
        assert integers.dtype == torch.int8
        assert torch.equal(node.meta["fxq.port"].dequantize(integers), real)
    golden("\n".join(line.partition(" : ")[0].split("(")[0] for line in text(plain).splitlines()))


class Island(nn.Module):
    """Float in the middle, and at the end."""

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """x (N, 4)."""
        return torch.cumsum(torch.relu(x), 1)


def test_a_float_output_is_named() -> None:
    with pytest.raises(LoweringError, match=r"the output cumsum .* is float"):
        IntegerPorts()(quantized(Island(), torch.randn(3, 4)))


def test_an_input_that_nothing_reads_stays_a_port() -> None:
    class Net(nn.Module):
        def forward(self, x: torch.Tensor, unread: torch.Tensor) -> torch.Tensor:
            return torch.relu(x)

    x = (torch.randn(2, 4), torch.randn(2, 3))
    plain = fxquant.integer_ports(fxquant.quantize(fxquant.trace(Net(), x), [x], progress=False))
    first, second = plain.graph.find_nodes(op="placeholder")
    assert second.meta["val"].dtype == torch.int8 and second.meta["fxq.port"].one_scale == 1.0
    assert first.meta["fxq.port"].one_scale != 1.0
