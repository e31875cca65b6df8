"""Options are what the operator's schema says, however a call gives them."""

from __future__ import annotations

import itertools
from typing import Any

import pytest
import torch
from torch import fx, nn

import fxquant
from fxquant.arguments import argument, arguments, int_arg, ints_arg, is_settled, settle
from fxquant.errors import ArgumentError
from fxquant.graph import calls
from fxquant.ops.table import TABLE
from fxquant.passmanager import Pass

aten = torch.ops.aten


def node(target: Any, *args: Any, **kwargs: Any) -> fx.Node:
    """A call in a graph of its own; "x" stands for a value."""
    graph = fx.Graph()
    values = {name: graph.placeholder(name) for name in ("x", "y")}
    return graph.call_function(target, *fx.node.map_aggregate((args, kwargs), lambda a: values.get(str(a), a)))


@pytest.mark.parametrize("target", TABLE, ids=str)
def test_a_call_reads_the_same_however_it_is_written(target: Any) -> None:
    """Every argument of every operator of the table, by position as far as that goes, by keyword from there on."""
    schema = target._schema.arguments
    given = {a.name: a.default_value if a.has_default_value() else f"a {a.name}" for a in schema}
    places = [a.name for a in schema if not a.kwarg_only]
    forms = []
    for count in range(len(places) + 1):
        by_place = [given[name] for name in places[:count]]
        call = node(target, *by_place, **{name: value for name, value in given.items() if name not in places[:count]})
        assert [argument(call, name) for name in given] == arguments(call)
        settle(call)
        assert is_settled(call)
        forms.append((call.args, call.kwargs))
    assert all(form == forms[0] for form in forms)
    # What is left out is its default.
    required = {a.name: given[a.name] for a in schema if not a.has_default_value()}
    assert arguments(node(target, **required)) == arguments(node(target, **given))


def test_keywords_that_come_late_settle_in_order() -> None:
    settings = {"stride": [2, 2], "ceil_mode": True, "kernel_size": 3}
    for order in itertools.permutations(settings):
        call = node(aten.max_pool2d.default, "x", **{name: settings[name] for name in order})
        settle(call)
        assert call.args[1:] == ([3, 3], [2, 2], [0, 0], [1, 1], True) and not call.kwargs


def test_defaults_are_the_schema_s() -> None:
    assert arguments(node(aten.rsub.Scalar, "x", 2.0))[1:] == [2.0, 1]
    assert argument(node(aten.conv2d.padding, "x", "y"), "padding") == "valid"
    assert int_arg(node(aten.cat.default, ["x", "y"]), "dim") == 0
    assert ints_arg(node(aten.mean.dim, "x", 1), "dim") == [1]


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: node(aten.relu.default, "x", "y"), "2 arguments are too many"),
        (lambda: node(aten.add.Tensor, "x", "y", beta=2), "there is no room for beta"),
        (lambda: node(aten.clamp.default, "x", 1, min=2), "there is no room for min"),
        (lambda: node(aten.mul.Tensor, "x"), "no other"),
    ],
)
def test_a_call_that_no_operator_takes_is_named(call: Any, told: str) -> None:
    with pytest.raises(ArgumentError, match=f"is not called as aten::.* wants it: {told}"):
        settle(call())


class Rewrite(Pass):
    """A user's pass that writes calls as it likes."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """relu(x) => 3 * x clamped, by keywords."""
        for old in calls(module.graph, aten.relu.default):
            with module.graph.inserting_before(old):
                options = {"alpha": -3.0, "self": old.args[0], "other": 0}
                made = module.graph.call_function(aten.rsub.Scalar, (), options)
                new = module.graph.call_function(aten.clamp.default, (made,), {"max": 0.5})
            made.meta, new.meta = dict(old.meta), dict(old.meta)
            old.replace_all_uses_with(new)
            module.graph.erase_node(old)
        return module


def test_calls_of_a_user_s_pass_mean_what_they_say() -> None:
    torch.manual_seed(0)
    data = [torch.randn(4, 6) for _ in range(3)]
    graph = Rewrite()(fxquant.trace(nn.Sequential(nn.Linear(6, 5), nn.ReLU()).eval(), data[0]))
    assert all(is_settled(n) for n in graph.graph.nodes)
    quantized = fxquant.quantize(graph, data, progress=False)
    assert float((quantized(data[0]) - graph(data[0])).abs().max()) < 0.1
    assert float((graph(data[0]) - 0.5).max()) == 0.0
