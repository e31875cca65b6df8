"""FoldScalars: a constant of one element is the number that it is."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F

from fxquant.passes import FoldScalars
from tests.passes.graphs import Net, assert_same, data, traced

aten = torch.ops.aten
C = torch.tensor([0.75])

FORMS: dict[str, tuple[Any, Any]] = {
    "sum": (lambda m, x: x + m.c, aten.add.Tensor),
    "sum, first": (lambda m, x: torch.add(m.c, x, alpha=3), aten.add.Tensor),
    "difference, first": (lambda m, x: m.c - x, aten.add.Tensor),
    "product": (lambda m, x: m.c * x, aten.mul.Tensor),
    "quotient": (lambda m, x: x / m.c, aten.div.Tensor),
    "quotient, first": (lambda m, x: m.c / (x.abs() + 1), aten.reciprocal.default),
    "power": (lambda m, x: x.abs() ** m.c, aten.pow.Tensor_Scalar),
    "power, first": (lambda m, x: m.c**x, aten.pow.Scalar),
    "larger": (lambda m, x: torch.maximum(x, m.c), aten.clamp_min.default),
    "smaller, first": (lambda m, x: torch.minimum(m.c, x), aten.clamp_max.default),
    "one slope": (lambda m, x: F.prelu(x, m.c), aten.leaky_relu.default),
    "a choice": (lambda m, x: torch.where(x > m.c, x, m.c), aten.where.ScalarOther),
    "a choice, first": (lambda m, x: torch.where(x < m.c, m.c, x), aten.where.ScalarSelf),
}


@pytest.mark.parametrize("form", FORMS)
def test_as_a_number(form: str) -> None:
    forward, target = FORMS[form]
    inputs = data((2, 3))
    before = traced(Net(forward, c=C), *inputs)
    after = FoldScalars()(before)
    assert not after.graph.find_nodes(op="get_attr")
    assert target in {node.target for node in after.graph.nodes}
    assert_same(before, after, *inputs)


def test_a_constant_that_gives_the_result_its_shape_stays() -> None:
    inputs = data((2, 3))
    before = traced(Net(lambda m, x: x + m.c, c=C.reshape(1, 1, 1)), *inputs)
    after = FoldScalars()(before)
    assert after.graph.find_nodes(op="get_attr")
    assert_same(before, after, *inputs)
