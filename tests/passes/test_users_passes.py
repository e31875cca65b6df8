"""Passes of users: what torch.fx offers works in them, and what is wrong in one is blamed on it, by its name."""

from __future__ import annotations

import operator
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import FxquantError, PassError, PassOrderError, StageError
from fxquant.graph import calls
from fxquant.names import find, layers_of
from fxquant.passmanager import Pass, Pipeline
from fxquant.source import name_of, source_of
from fxquant.stage import Stage

aten = torch.ops.aten
X = torch.randn(2, 3, 8, 8, generator=torch.Generator().manual_seed(0))


class Net(nn.Module):
    """conv, relu, conv."""

    def __init__(self) -> None:
        super().__init__()
        self.first, self.second = nn.Conv2d(3, 8, 3), nn.Conv2d(8, 4, 1)

    def forward(self, x: Tensor) -> Tensor:
        """Images (N, 3, 8, 8)."""
        y: Tensor = self.second(torch.relu(self.first(x)))
        return y


def traced() -> fx.GraphModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return fxquant.trace(Net().eval(), X)


def replace_relu(module: fx.GraphModule, function: Any, *more: Any) -> fx.GraphModule:
    """relu(x) => function(x, *more), as torch.fx's own documentation edits graphs: no shapes, no sources."""
    for node in calls(module.graph, aten.relu.default):
        with module.graph.inserting_after(node):
            new = module.graph.call_function(function, (node.args[0], *more))
        node.replace_all_uses_with(new)
        module.graph.erase_node(node)
    return module


def swish(x: Tensor) -> Tensor:
    """A function of the user's own."""
    return x * torch.sigmoid(x)


def by_pattern(module: fx.GraphModule) -> fx.GraphModule:
    fx.replace_pattern(
        module, lambda x: aten.relu.default(x), lambda x: aten.mul.Tensor(aten.hardtanh.default(x, 0.0, 6.0), 2.0)
    )
    return module


def by_methods(module: fx.GraphModule) -> fx.GraphModule:
    fx.replace_pattern(module, lambda x: aten.relu.default(x), lambda x: x.clamp(min=0.0) * x.sigmoid())
    return module


def by_torch_functions(module: fx.GraphModule) -> fx.GraphModule:
    fx.replace_pattern(module, lambda x: aten.relu.default(x), lambda x: torch.clamp(x, 0.0, 6.0) * 2.0)
    return module


# Passes, and what they make of relu(x).
EDITS: dict[str, tuple[Callable[[fx.GraphModule], fx.GraphModule], Callable[[Tensor], Tensor]]] = {
    "replace_pattern": (by_pattern, lambda x: x.clamp(0, 6) * 2),
    "replace_pattern of torch": (by_torch_functions, lambda x: x.clamp(0, 6) * 2),
    "replace_pattern of methods": (by_methods, lambda x: x.clamp(min=0) * x.sigmoid()),
    "an overload": (lambda m: replace_relu(m, aten.hardswish.default), nn.functional.hardswish),
    "a function of torch": (lambda m: replace_relu(m, nn.functional.silu), nn.functional.silu),
    "a function of the user": (lambda m: replace_relu(m, swish), swish),
    "Python's operator": (lambda m: replace_relu(m, operator.mul, 0.5), lambda x: x * 0.5),
    "another shape": (
        lambda m: replace_relu(m, aten.max_pool2d.default, [2, 2]),
        lambda x: nn.functional.max_pool2d(x, 2),
    ),
    "Transformer": (lambda m: fx.Transformer(m).transform(), torch.relu),
}


@pytest.mark.parametrize("name", EDITS)
def test_what_torch_fx_offers_works(name: str) -> None:
    """Shapes with a free batch, the model's own lines, and integers: nothing is said by the pass."""
    edit, meaning = EDITS[name]
    graph = traced()
    changed = fxquant.as_pass(edit)(graph)
    model = Net()
    model.load_state_dict(graph.state_dict())
    expected = model.second(meaning(model.first(X)))
    assert torch.allclose(changed(X), expected, atol=1e-5)
    (result,) = changed.graph.output_node().args
    assert isinstance(result, fx.Node) and isinstance(result.meta["val"].shape[0], torch.SymInt)
    assert tuple(result.meta["val"].shape[1:]) == tuple(expected.shape[1:])
    for node in changed.graph.nodes:
        if node.op == "call_function":
            assert source_of(node).file.endswith("test_users_passes.py") and "self.second" in source_of(node).code
            assert isinstance(node.target, torch._ops.OpOverload)
    observed = fxquant.prepare_pipeline().after("FoldBatchNorm", fxquant.as_pass(edit))(graph)
    quantized = fxquant.convert(fxquant.calibrate(observed, [X], progress=False))
    assert fxquant.report(quantized).is_fully_integer
    assert torch.equal(fxquant.compile(quantized, threads=1, against_float=False)(X), quantized(X))


def behind_each(module: fx.GraphModule) -> fx.GraphModule:
    """An operation of its own behind every convolution, and two behind the activation."""
    for node in list(calls(module.graph, aten.conv2d.default, aten.relu.default)):
        with module.graph.inserting_after(node):
            new = module.graph.call_function(aten.clamp.default, (node, -4.0, 4.0))
        node.replace_all_uses_with(new)
        new.args = (node, -4.0, 4.0)
    with module.graph.inserting_before(module.graph.output_node()):
        (last,) = module.graph.output_node().args
        assert isinstance(last, fx.Node)
        module.graph.output_node().args = (module.graph.call_method("neg", (last,)),)
    return module


def test_what_is_put_behind_a_layer_has_a_name_of_its_own() -> None:
    changed = fxquant.as_pass(behind_each)(traced())
    found = [(name_of(n), layers_of(n)) for n in changed.graph.nodes if n.op == "call_function"]
    assert found == [
        (name, (name,))
        for name in ("first", "first:clamp", "relu", "clamp_default_1", "second", "second:clamp", "second:neg")
    ]
    assert find(changed, "first").target is aten.conv2d.default
    quantized = fxquant.quantize(changed, [X], progress=False)
    # Computed at once, and both are found.
    assert "in first" in fxquant.why(quantized, "first:clamp")


def nothing(module: fx.GraphModule) -> Any:
    """Forgets to return it."""
    module.graph.eliminate_dead_code()


def raises(module: fx.GraphModule) -> fx.GraphModule:
    return module.no_such_thing  # type: ignore[return-value]


def dangling(module: fx.GraphModule) -> fx.GraphModule:
    """A constant that the module does not have."""
    with module.graph.inserting_before(module.graph.output_node()):
        constant = module.graph.create_node("get_attr", "not_there")
    module.graph.output_node().args = (constant,)
    return module


def out_of_order(module: fx.GraphModule) -> fx.GraphModule:
    """A node before its operand."""
    (relu,) = calls(module.graph, aten.relu.default)
    first = next(iter(module.graph.nodes))
    first.prepend(relu)
    return module


def with_module(module: fx.GraphModule) -> fx.GraphModule:
    (relu,) = calls(module.graph, aten.relu.default)
    module.add_submodule("extra", nn.GELU())
    with module.graph.inserting_after(relu):
        new = module.graph.call_module("extra", (relu.args[0],))
    relu.replace_all_uses_with(new)
    return module


def same_input_twice(module: fx.GraphModule) -> fx.GraphModule:
    (first,) = module.graph.find_nodes(op="placeholder")
    with module.graph.inserting_after(first):
        module.graph.placeholder(str(first.target))
    return module


def new_input(module: fx.GraphModule) -> fx.GraphModule:
    (first,) = module.graph.find_nodes(op="placeholder")
    with module.graph.inserting_after(first):
        module.graph.placeholder("more")
    return module


# What a pass does wrong, and what is said of it: always its name, and what or where.
WRONG: dict[str, tuple[Callable[[fx.GraphModule], Any], type[FxquantError], str]] = {
    "returns nothing": (nothing, PassError, r"nothing gives None, not a GraphModule: return the module from run"),
    "returns a graph": (lambda m: m.graph, PassError, r"<lambda> gives a Graph, not a GraphModule"),
    "raises": (
        raises,
        PassError,
        r"pass raises fails at .*test_users_passes.py:\d+ 'return module.no_such.*AttributeErr",
    ),
    "no operand": (
        lambda m: replace_relu(m, aten.add.Tensor),
        PassError,
        r"<lambda> leaves a node that cannot be computed: relu = aten.add.Tensor at (.|\n)*takes conv2d ",
    ),
    "wrong shape": (
        lambda m: replace_relu(m, aten.reshape.default, [7, 11]),
        PassError,
        r"cannot be computed: relu = aten.reshape",
    ),
    "breaks what follows": (
        lambda m: replace_relu(m, aten.flatten.using_ints, 2),
        PassError,
        r"<lambda> leaves a node that cannot be computed: second = aten.conv2d at .*self.second",
    ),
    "a name that is not there": (dangling, PassError, r"dangling leaves a node .*: not_there = get_attr not_there"),
    "out of order": (out_of_order, FxquantError, r"out_of_order (gives FLOAT, but the graph is broken|leaves a node)"),
    "a module": (
        with_module,
        PassError,
        r"with_module leaves a node (.|\n)*GELU is a module, not an observer: call functions",
    ),
    "one input twice": (
        same_input_twice,
        StageError,
        "same_input_twice gives FLOAT, but the graph is broken: several inputs",
    ),
    "a new input": (new_input, PassError, "new_input leaves a node that cannot be computed: more = placeholder more"),
}


@pytest.mark.parametrize("name", WRONG)
def test_the_pass_is_blamed_and_not_the_next(name: str) -> None:
    edit, kind, words = WRONG[name]
    with pytest.raises(kind, match=words):
        fxquant.prepare_pipeline().before("FuseOps", fxquant.as_pass(edit))(traced())


def test_shapes_that_a_pass_claims_are_not_believed() -> None:
    """It says that its new node is like the old one, which has another shape."""

    def claims(module: fx.GraphModule) -> fx.GraphModule:
        (relu,) = calls(module.graph, aten.relu.default)
        old = relu.meta["val"]
        module = replace_relu(module, aten.max_pool2d.default, [2, 2])
        (pool,) = calls(module.graph, aten.max_pool2d.default)
        pool.meta["val"] = old
        return module

    changed = fxquant.as_pass(claims)(traced())
    assert [list(n.meta["val"].shape[1:]) for n in calls(changed.graph, aten.max_pool2d.default)] == [[8, 3, 3]]


@dataclass(frozen=True)
class Whole(Pass):
    """A pass that is one."""

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """As it was."""
        return module


class Confused(Whole):
    """A pass whose stage is a word."""

    needs: Any = "float"  # type: ignore[misc]


@pytest.mark.parametrize(
    ("step", "words"),
    [
        (swish, r"swish is no pass: make it one, fxquant\.as_pass\(swish\)"),
        (Whole, r"Whole is a class: put a pass of it into the pipeline, Whole\(\.\.\.\)"),
        (None, "None is no pass"),
        ("FuseOps", "a str is no pass"),
        (Confused(), r"Confused\.needs is 'float', which is no stage: Stage\.FLOAT, Stage\.OBSERVED"),
    ],
)
def test_what_is_no_pass_is_refused_when_the_pipeline_is_built(step: Any, words: str) -> None:
    pipeline = fxquant.prepare_pipeline()
    with pytest.raises(PassError, match=words):
        pipeline.before("FuseOps", step)
    with pytest.raises(PassError, match=words):
        pipeline.after("FuseOps", step)
    with pytest.raises(PassError, match=words):
        Pipeline((step,))


def test_a_function_becomes_a_pass() -> None:
    step = fxquant.as_pass(by_pattern, needs=Stage.FLOAT)
    assert (step.name, step.needs, step.gives) == ("by_pattern", Stage.FLOAT, Stage.FLOAT)
    later = fxquant.as_pass(by_pattern, needs=Stage.INTEGER)
    assert later.gives is Stage.INTEGER
    with pytest.raises(PassOrderError, match="by_pattern needs a INTEGER graph and got a FLOAT one"):
        later(traced())
    for wrong in (Whole, Whole(), 3):
        with pytest.raises(PassError, match="as_pass takes a function from module to module, not"):
            fxquant.as_pass(wrong)  # type: ignore[arg-type]


def test_recover_takes_a_recipe_as_plain_data() -> None:
    graph, recipe = traced(), {"activation": {"qmin": -8, "qmax": 7}}
    quantized = fxquant.quantize(graph, [X], recipe=recipe, progress=False)
    found = fxquant.compare(graph, quantized, [X], progress=False)
    plain = fxquant.recover(graph, [X], [X], found, recipe=recipe, goal=200.0, progress=False)
    same = fxquant.recover(graph, [X], [X], found, recipe=fxquant.Recipe.from_dict(recipe), goal=200.0, progress=False)
    assert plain == same and plain.tried > 1
