"""DefineReals: what stays float gives the same bits whoever computes it, where there is a definition."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

import fxquant
from fxquant.passes import DefineReals
from fxquant.plan import plan_of
from fxquant.recipe import Recipe
from fxquant.source import target_name
from tests.passes.graphs import Net, assert_same, data, drawn, shown, traced, until


def _islands(net: nn.Module, *inputs: Tensor) -> list[str]:
    quantized = fxquant.quantize(traced(net, *inputs), recipe="dynamic")
    return [target_name(node) for node in quantized.graph.nodes if node.meta.get("fxq.island")]


def test_softmax_norm_and_curves(golden: Callable[[str], None]) -> None:
    net = drawn(Net(lambda m, x: F.gelu(m.norm(x)).softmax(1), norm=nn.LayerNorm(6)))
    inputs = data((2, 4, 6))
    before = until(traced(net, *inputs), DefineReals, *inputs, recipe=Recipe.named("dynamic"))
    after = DefineReals()(before)
    golden(shown(before, after))
    assert_same(net, after, *inputs)


def test_they_are_told_as_before() -> None:
    net = drawn(Net(lambda m, x: F.silu(m.c(x)), c=nn.Linear(6, 4)))
    quantized = fxquant.quantize(traced(net, *data((2, 6))), recipe="dynamic")
    (made,) = (node for node in quantized.graph.nodes if target_name(node) == "fxq.real_curve")
    plan = plan_of(made)
    assert plan is not None and not plan.integer and "at run time" in plan.reason


def test_what_has_no_definition_stays() -> None:
    for forward in (
        lambda m, x: F.layer_norm(x.double(), [6]).float(),
        lambda m, x: F.layer_norm(x, [6], m.scale * x.mean((0, 1)), None),
        lambda m, x: torch.softmax(x.double(), -1).float(),
        lambda m, x: F.gelu(x.double()).float(),
        lambda m, x: F.elu(x),
    ):
        net = drawn(Net(forward))
        net.register_buffer("scale", torch.ones(6))
        found = _islands(net, *data((2, 4, 6)))
        assert not [name for name in found if name.startswith("fxq.real_")], found
