"""InsertDynamic: operands are quantized by ranges of run time, where their values come from."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import fx, nn

import fxquant
from fxquant.errors import RecipeError, SchemeError
from fxquant.passes import InsertDynamic
from fxquant.recipe import Recipe
from fxquant.scheme import activation, weight
from fxquant.source import target_name
from tests.passes.graphs import Net, assert_same, data, drawn, shown, traced, until

DYNAMIC = Recipe.named("dynamic")


def _net(forward: Callable[..., Any], **modules: nn.Module) -> Net:
    return drawn(Net(forward, **modules))


def _numbers(module: fx.GraphModule, name: str) -> list[tuple[Any, ...]]:
    return [node.args[1:] for node in module.graph.nodes if target_name(node) == name]


def test_one_quantization_for_all_readers(golden: Callable[[str], None]) -> None:
    net = _net(
        lambda m, x: m.a(r := F.relu(m.stem(x))) + m.b(F.max_pool2d(F.relu(r), 1)),
        stem=nn.Conv2d(3, 4, 3), a=nn.Conv2d(4, 4, 1), b=nn.Conv2d(4, 4, 1),
    )  # fmt: skip
    inputs = data((2, 3, 6, 6))
    before = until(traced(net, *inputs), InsertDynamic, *inputs, recipe=DYNAMIC)
    after = InsertDynamic()(before)
    golden(shown(before, after))
    assert_same(net, after, *inputs, atol=0.1)


def test_values_that_cannot_be_negative_use_all_codes() -> None:
    for forward, wanted in (
        (lambda m, x: m.c(x), (0, -127, 127)),
        (lambda m, x: m.c(F.relu(x)), (-128, -128, 127)),
        (lambda m, x: m.c(F.max_pool2d(F.pad(F.relu6(x), (1, 1)), 2)), (-128, -128, 127)),
        (lambda m, x: m.c(torch.sigmoid(x)), (-128, -128, 127)),
        (lambda m, x: m.c(F.relu(x) - 1), (0, -127, 127)),
        (lambda m, x: m.c(F.avg_pool2d(F.relu(x), 2)), (-128, -128, 127)),
    ):
        net = _net(forward, c=nn.Conv2d(3, 4, 1))
        quantized = fxquant.quantize(traced(net, *data((2, 3, 4, 4))), recipe="dynamic")
        assert _numbers(quantized, "fxq.quantize_dynamic")[-1][1:] == wanted


def test_what_a_move_reads_before_another_reader_is_quantized_before_both() -> None:
    net, inputs = _net(lambda m, x: x @ x.transpose(1, 2)), data((2, 3, 4))
    before = until(traced(net, *inputs), InsertDynamic, *inputs, recipe=DYNAMIC)
    after = InsertDynamic()(before)
    names = [target_name(n) for n in after.graph.nodes]
    assert names.count("fxq.quantize_dynamic") == 1
    assert names.index("fxq.dequantize_dynamic") < names.index("aten.transpose.int") < names.index("aten.matmul")
    assert_same(net, after, *inputs, atol=0.1)


def test_what_only_moves_values_moves_integers() -> None:
    net = _net(
        lambda m, x: m.c(F.max_pool2d(F.pad(F.relu(m.a(x)), (1, 1, 1, 1)), 2)),
        a=nn.Conv2d(3, 4, 1),
        c=nn.Conv2d(4, 2, 1),
    )
    quantized = fxquant.quantize(traced(net, *data((2, 3, 4, 4))), recipe="dynamic")
    names = [target_name(n) for n in quantized.graph.nodes if n.op == "call_function"]
    assert "fxq.pad" in names and "fxq.max_pool" in names
    assert next(n for n in quantized.graph.nodes if n.meta.get("fxq.island")).target is torch.ops.aten.relu.default


def test_no_bits_beside_what_the_scheme_says() -> None:
    recipe = {"activation": {"dynamic": True, "qmin": -8, "qmax": 7}}
    net = _net(lambda m, x: m.b(F.relu(m.a(x))), a=nn.Linear(4, 4), b=nn.Linear(4, 4))
    quantized = fxquant.quantize(traced(net, *data((2, 4))), recipe=recipe)
    assert [n[1:] for n in _numbers(quantized, "fxq.quantize_dynamic")] == [(0, -7, 7), (-8, -8, 7)]


def test_a_rule_makes_one_layer_dynamic() -> None:
    net = _net(lambda m, x: m.c(F.relu(m.b(F.relu(m.a(x))))), **{k: nn.Conv2d(3, 3, 1) for k in "abc"})
    inputs = data((2, 3, 4, 4))
    recipe = {"rules": [{"match": "b", "activation": {"dynamic": True}}]}
    quantized = fxquant.quantize(traced(net, *inputs), [inputs], recipe=recipe, progress=False)
    names = [target_name(n) for n in quantized.graph.nodes if n.op == "call_function"]
    assert names.count("fxq.quantize_dynamic") == 1 and names.count("fxq.rescale_real") == 1
    assert names.count("fxq.requantize") == 3
    with torch.no_grad():
        assert (quantized(*inputs) - net(*inputs)).abs().max() < 0.1


@pytest.mark.parametrize(
    "recipe", [{"weight": {"dynamic": True}}, {"activation": {"dynamic": True, "symmetric": True, "qmin": -127}}]
)
def test_what_cannot_be_dynamic_is_refused(recipe: dict[str, Any]) -> None:
    with pytest.raises(RecipeError, match="dynamic"):
        Recipe.from_dict(recipe)


def test_a_range_needs_codes_on_both_sides() -> None:
    with pytest.raises(SchemeError, match="both sides"):
        activation().with_(dynamic=True, qmin=0, qmax=255)
    assert not weight().dynamic
