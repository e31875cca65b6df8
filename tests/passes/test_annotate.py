"""Annotate: every float operation gets a plan, with the reason where it stays in float."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

from fxquant.errors import RecipeError, UnsupportedOpError
from fxquant.passes import Annotate
from fxquant.plan import plan_of
from fxquant.recipe import Recipe, Rule
from fxquant.scheme import activation, weight
from tests.passes.graphs import Net, assert_same, data, drawn, plan_note, shown, traced


def _mixed(m: Net, x: Tensor) -> Tensor:
    y = m.fc(x)
    return torch.softmax(y, 1) + torch.cumsum(m.other(y), 1)


def _net() -> Net:
    return drawn(Net(_mixed, fc=nn.Linear(3, 4), other=nn.Linear(4, 4)))


def test_reasons(golden: Callable[[str], None]) -> None:
    inputs = data((2, 3, 3))
    before = traced(_net(), *inputs)
    after = Annotate()(before)
    golden(shown(before, after, plan_note))
    assert_same(before, after, *inputs, atol=0)


def test_rules(golden: Callable[[str], None]) -> None:
    inputs = data((2, 3))
    before = traced(_net(), *inputs)
    rules = (
        Rule("fc", keep_float=True),
        Rule("aten.softmax*", activation=activation(4)),
        Rule("other", weight=weight(4)),
    )
    after = Annotate(Recipe(rules=rules))(before)

    def note(node: torch.fx.Node) -> str:
        plan = plan_of(node)
        return "" if plan is None else f"{plan_note(node)}; {plan.activation}; {plan.weight}"

    golden(shown(before, after, note))


class Summing(nn.Module):
    """A network with a line of its own for the operation that has no integer spelling."""

    def __init__(self) -> None:
        super().__init__()
        self.fc = nn.Linear(3, 4)

    def forward(self, x: Tensor) -> Tensor:
        y = torch.softmax(self.fc(x), 1)
        return torch.cumsum(y, 1)


def test_strict_names_the_operation_and_its_line() -> None:
    with pytest.raises(UnsupportedOpError) as error:
        Annotate(Recipe(strict=True))(traced(Summing(), *data((2, 3))))
    message = str(error.value)
    assert (
        "cumsum = aten.cumsum at" in message
        and "test_annotate.py:" in message
        and "return torch.cumsum(y, 1)" in message
    )
    assert "aten.cumsum has no integer spelling in the op table" in message
    assert "softmax = " not in message  # over the last axis: in the table


def test_a_rule_that_matches_nothing() -> None:
    message = "the rule 'othr' matches no module, node or operator of this graph; did you mean other"
    with pytest.raises(RecipeError, match=message):
        Annotate(Recipe(rules=(Rule("othr", keep_float=True),)))(traced(_net(), *data((2, 3))))


def test_the_last_rule_wins() -> None:
    rules = Rule("aten.linear", keep_float=True), Rule("other", activation=activation(4))
    after = Annotate(Recipe(rules=rules))(traced(_net(), *data((2, 3))))
    plans = {node.name: plan_of(node) for node in after.graph.nodes}
    first, second = plans["linear"], plans["linear_1"]
    assert first is not None and second is not None
    assert not first.integer and first.reason == "the recipe keeps 'aten.linear' in float"
    assert second.integer and second.activation == activation(4)
