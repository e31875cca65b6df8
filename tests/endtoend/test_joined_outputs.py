"""Values of very different sizes in one output: each keeps its codes, and where it cannot, that is said."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant as fxq
from fxquant.gains import EXACT_DB
from fxquant.graph import outputs


class Head(nn.Module):
    """Boxes up to `size` and scores below one, in one output or in two."""

    def __init__(self, size: float, apart: bool = False) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body, self.size, self.apart = nn.Conv2d(3, 6, 3), size, apart

    def forward(self, x: Tensor) -> Tensor | tuple[Tensor, Tensor]:
        found = self.body(x)
        boxes, scores = torch.sigmoid(found[:, :4]) * self.size, torch.sigmoid(found[:, 4:])
        return (boxes, scores) if self.apart else torch.cat([boxes, scores], 1)


DATA = [torch.randn(4, 3, 8, 8, generator=torch.Generator().manual_seed(seed)) for seed in range(3)]


def quantized(model: nn.Module) -> tuple[fx.GraphModule, fx.GraphModule]:
    graph = fxq.trace(model.eval(), DATA[0])
    return graph, fxq.quantize(graph, DATA, progress=False)


@pytest.mark.parametrize("size", [1.0, 3.0, 640.0, 1e6])
def test_every_part_of_an_output_keeps_its_codes(size: float) -> None:
    graph, integer = quantized(Head(size))
    report = fxq.report(integer, graph, DATA)
    assert report.is_fully_integer and not report.lost
    x = DATA[1]
    for part in (slice(0, 4), slice(4, None)):
        real, close = graph(x)[:, part], integer(x)[:, part]
        assert real.square().sum() > 1e4 * (real - close).square().sum()
    with fxq.compile(integer, against_float=False) as net:
        assert torch.equal(net(x), integer(x))


def test_one_range_serves_parts_that_are_of_a_size() -> None:
    _, integer = quantized(Head(1.0))
    assert not list(integer.graph.find_nodes(op="call_function", target=torch.ops.fxq.join.default))
    _, integer = quantized(Head(640.0))
    (joined,) = integer.graph.find_nodes(op="call_function", target=torch.ops.fxq.join.default)
    assert "only outputs read it, and one range for all would be" in fxq.why(integer, joined.name)


def test_a_port_of_standalone_code_says_what_its_one_scale_leaves(tmp_path: Path) -> None:
    _, integer = quantized(Head(640.0))
    with pytest.warns(UserWarning, match=r"one scale for all its parts: of 256 codes \S+ keeps 0; return parts"):
        plain = fxq.integer_ports(integer)
    (output,) = outputs(plain.graph)
    scale = output.meta["fxq.port"].one_scale
    zero = output.meta["fxq.port"].one_zero_point
    x = DATA[0]
    (port,) = plain.graph.find_nodes(op="placeholder")
    q = port.meta["fxq.port"].quantize(x)
    assert ((plain(q).double() - zero) * scale - integer(x)).abs().max() <= scale
    with pytest.warns(UserWarning, match="one scale"):
        made = fxq.export(integer, "c", tmp_path / "fw", emit="c")
    assert "model.c" in made.files


def test_the_headline_names_a_value_that_is_lost() -> None:
    torch.manual_seed(0)
    model = nn.Sequential(nn.Conv2d(3, 4, 1), nn.Sigmoid(), nn.Conv2d(4, 4, 1)).eval()
    graph = fxq.trace(model, DATA[0])
    wide = fxq.quantize(graph, [torch.cat([DATA[0], DATA[0] * 1e4])], progress=False)
    report = fxq.report(wide, graph, DATA[:1])
    assert "0" in report.lost and report.lost["0"] < 16
    assert "as good as lost: " in report.summary() and "as good as lost" in str(report)
    assert not fxq.report(fxq.quantize(graph, DATA, progress=False), graph, DATA).lost


def test_few_codes_are_no_loss_where_there_are_few_values() -> None:
    graph = fxq.trace(nn.Sequential(nn.Linear(3, 3, bias=False), nn.ReLU()).eval(), torch.eye(3))
    report = fxq.report(fxq.quantize(graph, [torch.eye(3)], progress=False), graph, torch.eye(3))
    assert not report.lost and max(report.accuracy.output_sqnr_db if report.accuracy else ()) < EXACT_DB
