"""InsertObservers: one after every value whose range calibration must find, and after no other."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.errors import StageError
from fxquant.passes import FuseOps, InsertObservers
from fxquant.passes.insert_observers import needs_observer
from fxquant.stage import Stage, stage_of
from tests.passes.graphs import Net, assert_same, data, drawn, shown, traced, until


def _forward(m: Any, x: Tensor) -> Tensor:
    y = F.max_pool2d(F.relu(m.conv(x)), 2)
    return torch.softmax(torch.cat([y, x[:, :, :2, :2]], 1), -1)


def test_known_and_shared_ranges_need_none(golden: Callable[[str], None]) -> None:
    net = drawn(Net(_forward, conv=nn.Conv2d(3, 4, 1)))
    inputs = data((2, 3, 4, 4))
    before = until(traced(net, *inputs), InsertObservers, *inputs)
    after = InsertObservers()(before)
    golden(shown(before, after))
    assert stage_of(after) is Stage.OBSERVED
    assert_same(net, after, *inputs, atol=0)


def test_an_island_is_observed_where_integers_come_out_of_it(golden: Callable[[str], None]) -> None:
    net = drawn(Net(lambda m, x: m.b(torch.cumsum(torch.sinc(m.a(x)), 1)), a=nn.Linear(3, 4), b=nn.Linear(4, 2)))
    inputs = data((2, 3))
    before = until(traced(net, *inputs), InsertObservers, *inputs)
    after = InsertObservers()(before)
    golden(shown(before, after))
    assert_same(net, after, *inputs, atol=0)


def test_fusion_saves_observers() -> None:
    net = drawn(Net(lambda m, x: F.relu(m.conv(x)), conv=nn.Conv2d(3, 4, 1)))
    inputs = data((2, 3, 4, 4))
    unfused = until(traced(net, *inputs), FuseOps, *inputs)
    wanted = [[n.name for n in module.graph.nodes if needs_observer(n)] for module in (unfused, FuseOps()(unfused))]
    assert wanted == [["inputs_0", "conv2d", "relu"], ["inputs_0", "relu"]]


def test_without_a_plan_nothing_is_observed() -> None:
    """The pass reads what Annotate wrote; without it the graph has nothing to quantize."""
    after = InsertObservers()(traced(drawn(Net(lambda m, x: m.fc(x), fc=nn.Linear(3, 4))), *data((2, 3))))
    assert not list(after.graph.find_nodes(op="call_module"))


def test_an_operation_added_after_annotate_is_named() -> None:
    net = drawn(Net(lambda m, x: F.relu(m.fc(x)), fc=nn.Linear(3, 4)))
    inputs = data((2, 3))
    module = until(traced(net, *inputs), InsertObservers, *inputs)
    del next(iter(module.graph.find_nodes(op="placeholder"))).meta["fxq.plan"]
    with pytest.raises(StageError, match=r"inputs_0 = placeholder inputs_0 at .* has no plan: run Annotate before"):
        InsertObservers()(module)
