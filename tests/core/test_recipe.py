"""Recipes refuse what they cannot mean, by name, whether they are written as records or as plain data."""

from __future__ import annotations

import re
from typing import Any

import pytest
import torch
from torch import nn

import fxquant as fxq
from fxquant import scheme
from fxquant.errors import FxquantError, RecipeError
from fxquant.recipe import Recipe, Rule
from fxquant.scheme import Scheme

WRONG: list[tuple[dict[str, Any], str]] = [
    ({"strict": "false"}, "a recipe: strict must be True or False, not 'false'"),
    ({"share_limit": float("nan")}, "a recipe: share_limit must be a finite number"),
    ({"share_limit": float("inf")}, "a recipe: share_limit must be a finite number"),
    ({"share_limit": True}, "a recipe: share_limit must be a finite number"),
    ({"share_limit": 0.5}, "at least 1"),
    ({"weight": {"axis": 7}}, "weight asks for 7"),
    ({"weight": {"axis": "0"}}, "axis must be a whole number or None"),
    ({"activation": {"qmin": -7.5}}, "activation of a recipe: a scheme: qmin must be a whole number, not -7.5"),
    ({"activation": {"qmin": True}}, "qmin must be a whole number"),
    ({"activation": {"symmetric": 1}}, "symmetric must be True or False"),
    ({"activation": {"observer": 3}}, "observer must be text"),
    ({"activation": {"observer": "minmix"}}, "activation of a recipe: unknown observer 'minmix', did you mean"),
    ({"activation": {"observer": "percentile:much"}}, "percentile"),
    ({"weight": "int4"}, "weight of a recipe is 'int4': give keys and values, for example {\"bits\": 4}"),
    ({"weight": 4}, "give keys and values"),
    ({"weight": {"bits": 1}}, "bits is a whole number from 2 to 8, not 1"),
    ({"weight": {"bits": 16}}, "from 2 to 8"),
    ({"activation": {"bits": 17}}, "from 2 to 16"),
    ({"activation": {"bits": "8"}}, "from 2 to 16, not '8'"),
    ({"weight": {"bits": 4, "qmin": -7}}, "bits stands for qmin and qmax"),
    ({"weight": {"bit": 4}}, "unknown key 'bit' in weight of a recipe"),
    ({"rules": {"match": "x"}}, "are a list of rules"),
    ({"rules": ["x"]}, "rule 0 is 'x': give keys and values"),
    ({"rules": [{"keep_float": True}]}, "rule 0 has no match"),
    ({"rules": [{"match": "a"}, {"match": 3, "keep_float": True}]}, "match must be text"),
    ({"rules": [{"match": "a", "keep_float": "no"}]}, "keep_float must be True or False"),
    ({"rules": [{"match": "a", "weight": {"bits": 0}}]}, "weight of rule 0 ('a'): bits"),
]


@pytest.mark.parametrize(("data", "message"), WRONG, ids=lambda x: str(x) if isinstance(x, dict) else "")
def test_plain_data_that_means_nothing_is_refused_with_its_place(data: dict[str, Any], message: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(message)):
        Recipe.from_dict(data)


@pytest.mark.parametrize("data", [4, "int", ["weight"]])
def test_a_recipe_of_another_kind_is_refused(data: Any) -> None:
    with pytest.raises(RecipeError):
        fxq.prepare(_graph(), data)


def test_records_are_checked_like_plain_data() -> None:
    with pytest.raises(RecipeError, match="weight must be a Scheme, not"):
        Recipe(weight={"bits": 4})  # type: ignore[arg-type]
    with pytest.raises(RecipeError, match="a tuple of Rule records"):
        Recipe(rules=[Rule("x")])  # type: ignore[arg-type]
    with pytest.raises(FxquantError, match="qmax must be a whole number"):
        Scheme(qmax=127.0)  # type: ignore[arg-type]


@pytest.mark.parametrize("bits", range(2, 9))
def test_bits_stand_for_the_usual_range(bits: int) -> None:
    data = {"weight": {"bits": bits}, "activation": {"bits": bits}, "rules": [{"match": "0", "weight": {"bits": 2}}]}
    wanted = Recipe(scheme.activation(bits), scheme.weight(bits), (Rule("0", weight=scheme.weight(2)),))
    assert Recipe.from_dict(data) == wanted


@pytest.mark.parametrize("match", ["aten.add", "aten.add.Tensor", "aten.linear", "0", "lin*", "aten.*"])
def test_a_rule_may_name_an_operator_without_its_overload(match: str) -> None:
    quantized = fxq.quantize(
        _graph(), [torch.randn(2, 4)], recipe={"rules": [{"match": match, "keep_float": True}]}, progress=False
    )
    assert fxq.report(quantized).floats


@pytest.mark.parametrize(("match", "near"), [("aten.lineer", "aten.linear"), ("aten.ad", "aten.add")])
def test_a_rule_that_matches_nothing_hints_at_operators(match: str, near: str) -> None:
    with pytest.raises(RecipeError, match=re.escape(near)):
        fxq.prepare(_graph(), {"rules": [{"match": match, "keep_float": True}]})


def _graph() -> torch.fx.GraphModule:
    class Net(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.first, self.second = nn.Linear(4, 4), nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            return torch.relu(self.second(self.first(x) + x))

    return fxq.trace(nn.Sequential(Net()), torch.randn(2, 4))
