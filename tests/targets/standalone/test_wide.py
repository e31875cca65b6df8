"""Activations of 16 bits on emulated machines: Python's integers, and what they cost beside 8 bits."""

from __future__ import annotations

from functools import lru_cache

import pytest
import torch
from torch import fx, nn

import fxquant
from fxquant.target import Target
from fxquant.targets.standalone.export import standalone
from fxquant.tools.emulate import emulate
from fxquant.tools.emulate.programs import missing
from tests import zoo
from tests.targets.standalone.made import emulated

RECIPE = {"activation": {"bits": 16}}


class Wide(nn.Module):
    """Sums that 32 bits do not hold, and all else that meets 16 bits: residuals, tables, norms, products, moves."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.deep = nn.Conv2d(64, 24, 3, padding=1), nn.Conv2d(24, 24, 3, padding=1, groups=24)
        self.point, self.down = nn.Conv2d(24, 24, 1), nn.Conv2d(24, 7, 3, stride=2, padding=1)
        self.norm, self.last = nn.LayerNorm(7), nn.Linear(7, 5)
        with torch.no_grad():
            self.first.weight.copy_(self.first.weight.sign() * 0.01)

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Images (N, 64, 5, 6) and (N, 24, 5, 6)."""
        a = torch.relu(self.first(x)) + y
        b = (self.point(self.deep(a)) + a) * torch.sigmoid(y)
        rows = self.norm(self.down(b).flatten(2).transpose(1, 2))
        found: torch.Tensor = self.last(torch.softmax(rows @ rows.transpose(1, 2), -1) @ rows)
        return found


@lru_cache
def wide() -> fx.GraphModule:
    """The INTEGER graph of Wide."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = Wide().eval(), (torch.randn(4, 64, 5, 6), torch.randn(4, 24, 5, 6))
    return fxquant.quantize(fxquant.trace(model, x), [x], recipe=RECIPE, progress=False)


def test_sums_are_wide_where_they_must_be(monkeypatch: pytest.MonkeyPatch) -> None:
    """The layer of 576 taps, and the products of 16-bit rows."""
    monkeypatch.setenv("COLUMNS", "200")
    dropped = {node.primitive: node.dropped for node in fxquant.report(wide()).nodes if node.dropped}
    assert set(dropped) >= {"fxq.conv", "fxq.matmul"}
    with_bits = next(node for node in fxquant.report(wide()).nodes if node.dropped)
    assert f"sums less {with_bits.dropped} bits" in str(fxquant.report(wide()))
    assert f"last {with_bits.dropped} bits are rounded off" in fxquant.why(wide(), with_bits.name)


@pytest.mark.parametrize("target", emulated("c", "cortex-m4", "cortex-m55", "aarch64-neon", "armv7-neon"))
def test_one_of_everything(target: Target) -> None:
    made = standalone(fxquant.integer_ports(wide()), target, "net")
    assert emulate(made.files, "net", made.report, target).wrong == 0
    first = made.report["layers"][0]["kernel"]
    assert first == "plain" if target.isa == "scalar" else "s16" in first


@pytest.mark.parametrize("target", emulated("c", "cortex-m4", "cortex-m55", "riscv64-rvv", "aarch64-neon"))
def test_weights_of_four_bits(target: Target) -> None:
    """They are bytes where 16-bit operands meet them, for no runtime widens them before."""
    torch.manual_seed(0)
    model, x = (
        nn.Sequential(nn.Conv2d(3, 24, 1), nn.ReLU(), nn.Flatten(), nn.Linear(24 * 9, 23)),
        torch.randn(4, 3, 3, 3),
    )
    recipe = {**RECIPE, "rules": [{"match": "*", "weight": {"bits": 4}}]}
    graph = fxquant.quantize(fxquant.trace(model.eval(), x), [x], recipe=recipe, progress=False)
    assert "fxq.unpack" in str(graph.graph)
    made = standalone(fxquant.integer_ports(graph), target, "net")
    assert emulate(made.files, "net", made.report, target).wrong == 0


# Of DS-CNN: instructions per multiply-accumulate (CMSIS-NN takes 3.80 on an M4), and arena and flash at 8 bits.
@pytest.mark.parametrize(
    ("name", "most", "arena", "flash"), [("cortex-m4", 1.75, 11_488, 35_682), ("cortex-m55", 0.52, 9_616, 37_836)]
)
def test_what_ds_cnn_costs(name: str, most: float, arena: int, flash: int) -> None:
    (case,) = emulated(name)
    (target,) = case.values
    assert isinstance(target, Target)
    if missing(target):
        pytest.skip(missing(target))
    made = standalone(fxquant.integer_ports(ds_cnn()), target, "net")
    run = emulate(made.files, "net", made.report, target)
    assert run.wrong == 0 and run.instructions is not None
    assert run.instructions <= most * sum(layer.get("macs", 0) for layer in made.report["layers"])
    assert made.report["arena_bytes"] <= 2.1 * arena and made.report["flash_bytes"] <= 1.1 * flash


@lru_cache
def ds_cnn() -> fx.GraphModule:
    """The INTEGER graph of DS-CNN."""
    x = zoo.inputs("ds_cnn", 4)
    return fxquant.quantize(fxquant.trace(zoo.build("ds_cnn", shallow=True), x), [x], recipe=RECIPE, progress=False)
