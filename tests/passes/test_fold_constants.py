"""FoldConstants: what depends on constants only is computed once; what is random or follows the batch is not."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.passes import FoldBatchConstants, FoldConstants
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


def test_new_tensors_of_a_known_size_are_constants_whatever_the_batch() -> None:
    """The mask of shifted windows: made like the input, of another size, and written piece by piece."""

    def shifted(m: Net, x: Tensor) -> Tensor:
        regions = x.new_zeros((4, 4))
        regions[2:, :2] = 1
        return x + regions + x.new_full((4, 1), 2.0)

    inputs = data((2, 4, 4))
    before = traced(Net(shifted), *inputs)
    after = FoldConstants()(before)
    assert {n.target for n in after.graph.nodes if n.op == "call_function"} == {torch.ops.aten.add.Tensor}
    assert_same(before, after, *inputs)


def test_a_constant_output_is_kept() -> None:
    net = Net(lambda m, x: (x + 1, m.table * 2), table=torch.arange(3.0))
    inputs = data((2, 3))
    after = FoldConstants()(traced(net, *inputs))
    with torch.no_grad():
        assert torch.equal(after(*inputs)[1], torch.arange(3.0) * 2)


def test_what_all_heads_of_all_samples_have_is_a_constant() -> None:
    """A mask for each head, the heads of all samples behind each other; also where whole numbers lie in between."""

    def hidden(m: Net, x: Tensor) -> Tensor:
        batch, heads, length = x.shape
        mask = torch.ones(batch, length)[:, None].expand(batch, heads, length).reshape(batch * heads, length)
        found = x.reshape(batch * heads, length) * (mask * m.get_buffer("slopes").repeat(batch, 1)).int()
        return found.reshape(batch, heads, length)

    inputs = data((2, 3, 4))
    net = Net(hidden, slopes=torch.arange(3.0).reshape(3, 1))
    before = traced(net, *inputs)
    after = FoldBatchConstants()(FoldConstants()(before))
    calls = [n.target for n in after.graph.nodes if n.op == "call_function"]
    assert torch.ops.aten._to_copy.default not in calls and torch.ops.aten.repeat.default not in calls
    assert_same(before, after, *inputs)
    assert_same(net, after, *data((5, 3, 4)))


def test_rows_that_differ_between_samples_are_none() -> None:
    def numbered(m: Net, x: Tensor) -> Tensor:
        return x + torch.ones(x.shape[0]).cumsum(0)[:, None, None]

    inputs = data((2, 2, 4))
    before = traced(Net(numbered), *inputs)
    after = FoldBatchConstants()(before)
    assert torch.ops.aten.cumsum.default in {n.target for n in after.graph.nodes}
    assert_same(before, after, *inputs)
