"""Decompose: composite operators become the few that the op table knows."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn

from fxquant.ops.table import TABLE
from fxquant.passes import Decompose, RemoveIdentities
from tests.passes.graphs import Net, assert_same, data, drawn, shown, traced


def _attention(m: Net, q: Tensor, mask: Tensor) -> Tensor:
    return F.scaled_dot_product_attention(q, q, q, attn_mask=mask)


def test_attention(golden: Callable[[str], None]) -> None:
    inputs = data((2, 2, 4, 8), (2, 1, 4, 4))
    before = traced(Net(_attention), *inputs)
    after = Decompose()(before)
    golden(shown(before, after))
    assert_same(before, after, *inputs)


def _split(m: Net, x: Any) -> tuple[Tensor, ...]:
    a, _, c = x.split(2, dim=1)
    return a, c, x.chunk(2, -1)[1], x.unbind(2)[1], x.split([1, 4], 1)[1]


def test_split(golden: Callable[[str], None]) -> None:
    inputs = data((2, 5, 3))
    before = traced(Net(_split), *inputs)
    after = Decompose()(before)
    golden(shown(before, after))
    assert_same(before, after, *inputs)


def test_view_of_the_batch(golden: Callable[[str], None]) -> None:
    inputs = data((2, 3, 4))
    before = traced(Net(lambda m, x: (x.view(x.shape[0], 12), x.flatten(1), x.reshape(x.size(0), 2, -1))), *inputs)
    after = Decompose()(before)
    golden(shown(before, after))
    assert_same(before, after, *inputs)


@pytest.mark.parametrize("scale", [None, 0.3])
def test_attention_with_a_scale_of_its_own(scale: float | None) -> None:
    inputs = data((2, 2, 4, 8))
    before = traced(Net(lambda m, q: F.scaled_dot_product_attention(q, q, q, scale=scale)), *inputs)
    after = Decompose()(before)
    assert torch.ops.aten.scaled_dot_product_attention.default not in {n.target for n in after.graph.nodes}
    assert_same(before, after, *inputs)


def test_multi_head_attention_is_all_in_the_table() -> None:
    net = drawn(Net(lambda m, x: m.a(x, x, x, need_weights=False)[0], a=nn.MultiheadAttention(8, 2, batch_first=True)))
    inputs = data((2, 5, 8))
    after = Decompose()(RemoveIdentities()(traced(net, *inputs)))
    unknown = [str(n.target) for n in after.graph.nodes if n.op == "call_function" and n.target not in TABLE]
    assert not unknown
    assert_same(net, after, *inputs)
