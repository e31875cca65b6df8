"""RewriteMoves: whatever only moves values becomes slices, copies side by side, and picks, with the same values."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from fxquant.moves import take
from fxquant.ops.table import TABLE
from fxquant.passes import FoldBatchConstants, FoldConstants, RemoveIdentities, RewriteMoves
from tests.passes.graphs import Net, assert_same, data, run, shown, traced

aten = torch.ops.aten


def _moves(m: Net, x: Tensor) -> tuple[Tensor, ...]:
    return x.roll(1, 2), x[:, [2, 0, 2, 1]], F.pad(x, (1, 1, 0, 0), mode="reflect"), torch.diagonal(x, 0, 2, 3)


def test_moves(golden: Callable[[str], None]) -> None:
    inputs = data((2, 3, 4, 4))
    before = FoldConstants()(RemoveIdentities()(traced(Net(_moves), *inputs)))
    after = RewriteMoves()(before)
    golden(shown(before, after))
    assert_same(before, after, *inputs)


def _writes(m: Net, x: Tensor) -> Tensor:
    shifted = torch.zeros_like(x)
    shifted[:, :1, 1:] = x[:, :1, :-1]
    shifted[:, 1:] = x[:, 1:]
    return shifted


def test_a_temporal_shift(golden: Callable[[str], None]) -> None:
    inputs = data((2, 3, 4, 2))
    before = FoldBatchConstants()(FoldConstants()(RemoveIdentities()(traced(Net(_writes), *inputs))))
    after = RewriteMoves()(before)
    golden(shown(before, after))
    assert_same(before, after, *inputs)


FORMS: tuple[Callable[[Tensor], Tensor], ...] = (
    lambda x: x.roll((1, -2), (1, 3)),
    lambda x: x.repeat(1, 2, 1, 3),
    lambda x: x.tile(2, 1),
    lambda x: x.repeat_interleave(3, 2),
    lambda x: x.repeat_interleave(torch.tensor([2, 0, 1]), 1),
    lambda x: x[:, [-1, 0]],
    lambda x: x[:, [2, 0], [1, -1]],
    lambda x: x[:, :, [[0, 1], [3, 2]]],
    lambda x: x[:, torch.tensor([True, False, True])],
    lambda x: x.gather(3, torch.tensor([[1], [0], [3], [3]]).expand(x.shape[0], 3, 4, 1)),
    lambda x: torch.rot90(x, 1, (1, -1)),
    lambda x: torch.rot90(x, 2, (2, 3)),
    lambda x: x.tril(-1),
    lambda x: torch.triu(x),
    lambda x: x.unfold(2, 2, 1).unfold(1, 3, 1),
    lambda x: F.unfold(x, (2, 3), dilation=(2, 1), padding=1, stride=2),
    lambda x: F.pad(x, (3, 0, 1, 2), mode="reflect"),
    lambda x: F.pad(x, (5, 0, 1, 2), mode="replicate"),
    lambda x: F.pad(x, (1, 2, 4, 0), mode="circular"),
    lambda x: F.interpolate(x, (7, 3), mode="nearest-exact"),
    lambda x: torch.slice_scatter(x, x[:, :, :2] * 2, 2, 0, 4, 2),
    lambda x: torch.select_scatter(x, x[:, 0], 1, -1),
    lambda x: torch.ops.aten.index_put(x, [None, torch.tensor([2, 0])], x[:, :2] + 1),
    lambda x: torch.ops.aten.index_put(x, [None, None, torch.tensor([1])], torch.tensor(0.5)),
)


@pytest.mark.parametrize("number", range(len(FORMS)))
def test_every_form_has_code_and_the_same_values(number: int) -> None:
    inputs = data((2, 3, 4, 4))
    before = FoldBatchConstants()(
        FoldConstants()(RemoveIdentities()(traced(Net(lambda m, x: FORMS[number](x)), *inputs)))
    )
    after = RewriteMoves()(before)
    called = {n.target for n in after.graph.nodes if n.op == "call_function"} - {aten.sym_size.int}
    assert called <= set(TABLE)
    assert_same(before, after, *inputs, atol=0.0)


@pytest.mark.parametrize("form", [lambda x: x.roll(1, 0), lambda x: x[[1, 0]], lambda x: x.roll(3)])
def test_a_fixed_batch_is_an_axis_like_any_other(form: Callable[[Tensor], Tensor]) -> None:
    inputs = data((2, 4))
    before = FoldConstants()(RemoveIdentities()(traced(Net(lambda m, x: form(x)), *inputs)))
    assert str(before.meta["fxq.batch"]).startswith("static")
    after = RewriteMoves()(before)
    assert {n.target for n in after.graph.nodes if n.op == "call_function"} <= set(TABLE)
    assert torch.equal(run(after, *inputs)[0], run(before, *inputs)[0])


def test_places_that_data_gives_stay() -> None:
    inputs = (*data((2, 5)), torch.tensor([[1], [4]]))
    after = RewriteMoves()(traced(Net(lambda m, x, places: x.gather(1, places)), *inputs))
    assert aten.gather.default in {n.target for n in after.graph.nodes}


@settings(max_examples=60, deadline=None)
@given(positions=st.lists(st.integers(0, 5), min_size=1, max_size=9))
def test_take(positions: list[int]) -> None:
    """Ranges, strides, reversals, repeats, a few runs, and anything else."""
    (x,) = data((2, 6, 3))
    graph = traced(Net(lambda m, x: x.neg()), x)
    node = next(n for n in graph.graph.nodes if n.op == "call_function")
    with graph.graph.inserting_before(graph.graph.output_node()):
        node.graph.output_node().args = (take(graph.graph, node, 1, positions, node),)
    graph.recompile()
    assert torch.equal(graph(x), -x[:, positions])
