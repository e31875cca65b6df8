"""Constants of few bits are packed, and layers that few bits would hurt most keep 8 unless a rule names them."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import fx, nn

import fxquant
from fxquant.graph import is_unpacked, text
from fxquant.sensitive import sensitive

MODEL = nn.Sequential(
    nn.Conv2d(3, 4, 1), nn.Conv2d(4, 4, 3, groups=4), nn.Conv2d(4, 4, 1), nn.Flatten(), nn.Linear(16, 2)
).eval()
X = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))


def _quantized(recipe: dict[str, Any]) -> fx.GraphModule:
    return fxquant.quantize(fxquant.trace(MODEL, X), [X], recipe=recipe, progress=False)


def _bits(graph: fx.GraphModule) -> dict[str, int]:
    """Bits by layer, as the report tells them."""
    found = fxquant.report(graph)
    return {node.layers[0] if node.layers else node.origin: node.weight.bits for node in found.nodes if node.weight}


def test_sensitive_layers_keep_8_bits() -> None:
    """And the report says which, and why."""
    graph = _quantized({"weight": {"bits": 4}})
    report = fxquant.report(graph)
    kept = {node.feeds: node.weight.kept for node in report.nodes if node.weight}
    assert kept == {"0": "a first layer", "1": "depthwise", "2": "", "4": "a last layer"}
    told = " ".join(str(report).split())
    assert "4: 1 layers, 8 B; 8: 3 layers, 80 B" in told
    assert "these keep 8, a rule may ask for fewer: 0 (a first layer), 1 (depthwise), 4 (a last layer)" in told


def test_a_rule_may_ask_for_fewer() -> None:
    graph = _quantized({"weight": {"bits": 4}, "rules": [{"match": "1", "weight": {"bits": 2}}]})
    assert sorted(node.weight.bits for node in fxquant.report(graph).nodes if node.weight) == [2, 4, 8, 8]


def test_the_packed_graph_reads_well() -> None:
    lines = text(_quantized({"rules": [{"match": "2", "weight": {"bits": 4}}]})).splitlines()
    assert "%conv2d_2_weight_packed = get_attr conv2d_2_weight_packed : uint8[8]" in lines
    assert "%conv2d_2_weight = fxq.unpack(%conv2d_2_weight_packed, 4, [4, 4, 1, 1]) : int8[4,4,1,1]" in lines


@pytest.mark.parametrize(("bits", "stored"), [(2, 2), (3, 4), (4, 4), (5, None), (8, None)])
def test_what_is_packed(bits: int, stored: int | None) -> None:
    graph = _quantized({"rules": [{"match": "*", "weight": {"bits": bits}}]})
    assert {node.args[1] for node in graph.graph.nodes if is_unpacked(node)} == ({stored} if stored else set())


def test_integers_are_those_without_packing() -> None:
    """The pass changes how constants are kept, and nothing that is computed."""
    plain = fxquant.convert_pipeline().without("PackWeights")
    observed = fxquant.prepare(fxquant.trace(MODEL, X), fxquant.Recipe.from_dict({"weight": {"bits": 4}}))
    fxquant.calibrate(observed, [X], progress=False)
    before, after = plain(observed), fxquant.convert(observed)
    assert torch.equal(before(X), after(X)) and not any(map(is_unpacked, before.graph.nodes))


def test_first_and_last_are_by_the_graph() -> None:
    """Branches have several of each; what stands between others is neither."""

    class Branches(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.a, self.b, self.c, self.d = (nn.Linear(4, 4) for _ in range(4))

        def forward(self, x: torch.Tensor) -> tuple[torch.Tensor, torch.Tensor]:
            y = self.a(x) + self.b(x)
            z = self.c(y)
            return self.d(z), y + z

    graph = fxquant.trace(Branches(), torch.randn(2, 4)).graph
    assert list(sensitive(graph).values()) == ["a first layer", "a first layer", "a last layer"]
