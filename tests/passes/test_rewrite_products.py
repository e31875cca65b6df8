"""RewriteProducts: constants of matrix products are weights, vectors are matrices; composites are taken apart."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fxquant.passes import Decompose, FoldConstants, RemoveIdentities, RewriteProducts
from tests.passes.graphs import Net, assert_same, data, drawn, shown, traced

aten = torch.ops.aten


def _products(m: Net, x: Tensor) -> tuple[Tensor, ...]:
    return x @ m.right, m.left @ x, x @ m.vector, torch.einsum("bnd,de->bne", x, m.right)


def test_products(golden: Callable[[str], None]) -> None:
    tensors = {"right": (4, 2), "left": (2, 3), "vector": (4,)}
    net = drawn(Net(_products, **{name: torch.zeros(shape) for name, shape in tensors.items()}))
    inputs = data((2, 3, 4))
    before = Decompose()(RemoveIdentities()(traced(net, *inputs)))
    after = RewriteProducts()(before)
    golden(shown(before, after))
    assert_same(net, after, *inputs)


FORMS: dict[str, tuple[Callable[[Net, Tensor], Tensor], bool]] = {
    "a batch of one matrix": (lambda m, x: torch.bmm(x, m.square.expand(x.shape[0], 4, 4)), False),
    "a matrix for each head": (lambda m, x: x.unsqueeze(1) @ m.heads, False),
    "a vector on the left": (lambda m, x: m.vector[:3] @ x, True),
    "two pairs": (lambda m, x: m.pair(x, x), True),
    "over the axis of channels": (lambda m, x: torch.einsum("bcn,co->bon", x, m.square[:3]), True),
    "tensordot": (lambda m, x: torch.tensordot(x, m.square, dims=1), True),
}


@pytest.mark.parametrize("name", FORMS)
def test_constants_are_weights(name: str) -> None:
    form, is_weight = FORMS[name]
    tensors = {"square": (4, 4), "heads": (2, 4, 3), "vector": (4,)}
    made: dict[str, nn.Module | Tensor] = {key: torch.zeros(shape) for key, shape in tensors.items()}
    net = drawn(Net(form, pair=nn.Bilinear(4, 4, 3), **made))
    inputs = data((2, 3, 4))
    after = FoldConstants()(RewriteProducts()(Decompose()(RemoveIdentities()(traced(net, *inputs)))))
    called = {n.target for n in after.graph.nodes}
    assert aten.einsum.default not in called and aten.bilinear.default not in called
    assert not is_weight or aten.linear.default in called
    assert_same(net, after, *inputs)


def test_a_composite_of_unknown_parts_stays_whole() -> None:
    after = traced(Net(lambda m, x: torch.einsum("bnn->bn", x)), *data((2, 4, 4)))
    assert aten.einsum.default in {n.target for n in after.graph.nodes}
