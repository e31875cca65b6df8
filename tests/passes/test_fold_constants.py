"""FoldConstants: what depends on constants only is computed once; what is random or follows the batch is not."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.passes import FoldConstants
from tests.passes.graphs import Net, assert_same, data, drawn, shown, traced


def _positions(m: Net, x: Tensor) -> Tensor:
    return F.linear(x + torch.arange(3.0).mul(0.5).unsqueeze(0), m.fc.weight.t().contiguous().t(), m.fc.bias * 2)


def test_weights_and_positions(golden: Callable[[str], None]) -> None:
    net = drawn(Net(_positions, fc=nn.Linear(3, 4)))
    inputs = data((2, 3))
    before = traced(net, *inputs)
    after = FoldConstants()(before)
    golden(shown(before, after))
    assert_same(net, after, *inputs)


def test_the_batch_is_not_baked_in() -> None:
    net = Net(lambda m, x: x + torch.ones(x.shape[0], 3))
    inputs = data((2, 3))
    after = FoldConstants()(traced(net, *inputs))
    wider = data((5, 3))
    assert_same(net, after, *wider)


def test_a_random_number_is_not_a_constant() -> None:
    after = FoldConstants()(traced(Net(lambda m, x: x + torch.rand(3)), *data((2, 3))))
    assert torch.ops.aten.rand.default in {n.target for n in after.graph.nodes}


def test_a_constant_output_is_kept() -> None:
    net = Net(lambda m, x: (x + 1, m.table * 2), table=torch.arange(3.0))
    inputs = data((2, 3))
    after = FoldConstants()(traced(net, *inputs))
    with torch.no_grad():
        assert torch.equal(after(*inputs)[1], torch.arange(3.0) * 2)
