"""Pipelines: a user's own pass anywhere, watched step by step, every graph on the road runs."""

from __future__ import annotations

from dataclasses import dataclass

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant import passes
from fxquant.graph import call, calls, clean, text
from fxquant.passmanager import Pass
from fxquant.stage import Stage, stage_of
from tests.passes.graphs import Net, assert_same, data, drawn, run


@dataclass(frozen=True)
class SmoothRelu(Pass):
    """A user's pass: relu(x) => softplus(x * sharpness) / sharpness."""

    sharpness: float = 4.0

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Every ReLU."""
        aten = torch.ops.aten
        for node in calls(module.graph, aten.relu.default):
            with module.graph.inserting_before(node):
                scaled = call(module.graph, aten.mul.Tensor, node.args[0], self.sharpness, like=node)
                soft = call(module.graph, aten.softplus.default, scaled, like=node)
                node.replace_all_uses_with(call(module.graph, aten.div.Tensor, soft, self.sharpness, like=node))
        return clean(module)


def net() -> Net:
    """A network with every kind of step."""

    def forward(m: Net, x: Tensor) -> Tensor:
        y = F.relu(m.norm(m.conv(x)))
        out: Tensor = m.fc(torch.cat([y, x[:, :1]], 1).mean((2, 3)))
        return out

    return drawn(Net(forward, conv=nn.Conv2d(3, 4, 3, padding=1), norm=nn.BatchNorm2d(4), fc=nn.Linear(5, 2)))


@pytest.mark.parametrize("place", ["RemoveIdentities", "FoldBatchNorm", "Decompose"])
def test_a_pass_of_the_users_slots_in_anywhere(place: str) -> None:
    inputs = data((2, 3, 5, 5))
    traced = fxquant.trace(net(), inputs)
    pipeline = fxquant.prepare_pipeline().after(place, SmoothRelu(8.0))
    assert repr(SmoothRelu(8.0)) == "SmoothRelu(sharpness=8.0)" and "SmoothRelu" in [p.name for p in pipeline]
    observed = pipeline(traced)
    fxquant.calibrate(observed, [inputs], progress=False)
    quantized = fxquant.convert(observed)
    assert not [n for n in quantized.graph.nodes if n.meta.get("fxq.island")]
    with fxquant.compile(quantized, threads=1) as compiled:
        assert torch.equal(compiled(*inputs), run(quantized, *inputs)[0])
    smooth = SmoothRelu(8.0)(traced)
    assert float((run(quantized, *inputs)[0] - run(smooth, *inputs)[0]).abs().max()) < 0.1


def test_every_graph_on_the_road_runs_and_means_the_same() -> None:
    inputs = data((2, 3, 5, 5))
    model = net()
    seen: list[tuple[str, Stage]] = []

    def watch(step: Pass, module: fx.GraphModule) -> None:
        seen.append((step.name, stage_of(module)))
        assert_same(model, module, *inputs, atol=1e-4 if stage_of(module) in (Stage.FLOAT, Stage.OBSERVED) else 0.1)

    observed = fxquant.prepare(fxquant.trace(model, inputs), observe=watch)
    fxquant.calibrate(observed, [inputs], progress=False)
    fxquant.convert(observed, observe=watch)
    assert [name for name, _ in seen] == [p.__name__ for p in passes.ALL if p is not passes.IntegerPorts]
    stages = [stage for _, stage in seen]
    assert stages == sorted(stages, key=list(Stage).index) and set(stages) == set(Stage) - {Stage.TRAINING}


def test_convert_goes_by_the_recipe_that_prepare_was_given() -> None:
    """Parts of a concat keep ranges of their own, or share one, as far as the recipe lets them."""
    inputs = data((4, 3, 5))
    graph = fxquant.trace(Net(lambda m, x: F.relu(torch.cat([x, x * 8.0], 1))), *inputs)
    kinds = []
    for limit in (1.0, 100.0):
        observed = fxquant.prepare(graph, {"share_limit": limit})
        step_by_step = fxquant.convert(fxquant.calibrate(observed, [inputs], progress=False))
        at_once = fxquant.quantize(graph, [inputs], recipe={"share_limit": limit}, progress=False)
        assert text(step_by_step) == text(at_once)
        kinds.append(text(at_once).count("fxq.requantize"))
    assert kinds[0] > kinds[1]


def test_before_after_and_without() -> None:
    pipeline = fxquant.prepare_pipeline()
    names = [p.name for p in pipeline.before("FuseOps", SmoothRelu())]
    assert names[names.index("FuseOps") - 1] == "SmoothRelu"
    assert [p.name for p in pipeline.without("FoldBatchNorm")] == [
        p.name for p in pipeline if p.name != "FoldBatchNorm"
    ]


def test_a_pass_describes_itself() -> None:
    assert SmoothRelu.summary() == "A user's pass: relu(x) => softplus(x * sharpness) / sharpness."
    assert SmoothRelu.options() == {"sharpness": "float = 4.0"}
    for kind in passes.ALL:
        assert kind.summary().endswith(".")
