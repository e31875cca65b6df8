"""One name per layer: how trace gives it, how passes carry it, and that it is found or missed with a hint."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant import names, targets
from fxquant.errors import RecipeError, UnknownNameError
from fxquant.graph import absorb, calls, clean, placeholders
from fxquant.history import passes_of
from fxquant.names import find, layers_of, output_names
from fxquant.source import name_of, target_name
from fxquant.targets.standalone.export import standalone
from fxquant.targets.standalone.header import identifiers

aten = torch.ops.aten


class Block(nn.Module):
    """A module called twice, one that computes several things, one that calls another, parts of a result."""

    def __init__(self) -> None:
        super().__init__()
        self.conv, self.bn, self.relu, self.drop = (
            nn.Conv2d(4, 4, 3, padding=1),
            nn.BatchNorm2d(4),
            nn.ReLU(),
            nn.Dropout(),
        )

    def forward(self, x: Tensor) -> Tensor:
        """Images to images."""
        y = self.relu(self.bn(self.conv(x)))
        y = self.relu(self.conv(y) + x)
        low, high = self.drop(y).chunk(2, 1)
        return torch.cat([high, low], 1)


class Net(nn.Module):
    """The block, a functional pooling and a layer called as an operator is, with keys for its outputs."""

    def __init__(self) -> None:
        super().__init__()
        self.block, self.mean, self.head = Block(), nn.Linear(4, 3), nn.ModuleDict({"fc": nn.Linear(3, 2)})

    def forward(self, image: Tensor) -> dict[str, Any]:
        """Images to logits and maps."""
        maps = self.block(image)
        hidden = self.mean(maps.mean((2, 3)))
        return {"logits": self.head["fc"](hidden), "maps": (maps, torch.relu(hidden))}


IMAGES = torch.randn(4, 4, 6, 6, generator=torch.Generator().manual_seed(0))
# Names of the FLOAT graph by the ids of its nodes.
NAMES = {
    "image": "image",
    "conv2d": "block.conv",
    "batch_norm": "block.bn",
    "relu": "block.relu",
    "conv2d_1": "block.conv@1",
    "add": "block:add",
    "relu_1": "block.relu@1",
    "dropout": "block.drop",
    "chunk": "block:chunk",
    "getitem": "block:chunk:0",
    "getitem_1": "block:chunk:1",
    "cat": "block:cat",
    # The layer of this name has it, and not the operator.
    "mean": "mean_1",
    "linear": "mean",
    "linear_1": "head.fc",
    "relu_2": "relu_2",
}


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        return fxquant.trace(Net().eval(), IMAGES)


@pytest.fixture(scope="module")
def recorder(graph: fx.GraphModule) -> fxquant.Recorder:
    """The graph after every pass."""
    recorder = fxquant.Recorder(graph)
    fxquant.quantize(graph, [IMAGES], observe=recorder, progress=False)
    return recorder


@pytest.fixture(scope="module")
def quantized(recorder: fxquant.Recorder) -> fx.GraphModule:
    return recorder.last


def test_trace_names_by_module_path_or_operator(graph: fx.GraphModule) -> None:
    found = {node.name: name_of(node) for node in graph.graph.nodes if node.op in ("placeholder", "call_function")}
    assert found == NAMES
    assert output_names(graph) == ("logits", "maps_0", "maps_1")


def test_every_pass_keeps_names_unique_and_findable(recorder: fxquant.Recorder) -> None:
    for step, module in recorder.stages:
        nodes = [node for node in module.graph.nodes if node.op not in ("get_attr", "output")]
        assert len({name_of(node) for node in nodes}) == len(nodes), step
        for id_, name in NAMES.items():
            assert find(module, name) is find(module, id_) or name in ("mean", "mean_1"), (step, name)
            assert name in (name_of(find(module, name)), *layers_of(find(module, name))), (step, name)
    # In float, and up to the integers, ids stay as well.
    planned = dict(recorder.stages)["Annotate"]
    assert {node.name for node in planned.graph.nodes} & set(NAMES) == set(NAMES) - {"batch_norm", "dropout", "chunk"}


def test_what_is_computed_at_once_has_the_first_name(quantized: fx.GraphModule) -> None:
    assert layers_of(find(quantized, "block.conv")) == ("block.conv", "block.bn", "block.relu")
    second = find(quantized, "block.conv@1")
    assert layers_of(second) == ("block.conv@1", "block:add", "block.relu@1", "block.drop")
    assert target_name(second) == "fxq.add"
    assert target_name(find(quantized, "block.conv:accumulators")) == "fxq.conv"
    assert find(quantized, "block.relu@1") is find(quantized, "relu_1") is find(quantized, "add") is second
    assert find(quantized, "logits") is find(quantized, "head.fc:dequantize")
    assert "image:quantize" in {name_of(node) for node in quantized.graph.nodes}


def test_why_says_in_what_a_name_is_found(quantized: fx.GraphModule) -> None:
    assert fxquant.why(quantized, "block.conv").startswith("block.conv (fxq.requantize at ")
    told = fxquant.why(quantized, "conv2d_1")
    assert told.startswith("conv2d_1, in block.conv@1 (fxq.add at ")
    assert "which computes block.conv@1, block:add, block.relu@1, block.drop" in told
    with pytest.raises(
        UnknownNameError, match=r"no value called 'block\.conf' in this graph; did you mean block\.conv"
    ):
        fxquant.why(quantized, "block.conf")
    with pytest.raises(KeyError, match=r"did you mean block\.conv, block\.conv@1, block:chunk:0"):
        fxquant.why(quantized, "block")


def test_rules_and_records_take_names_and_ids(graph: fx.GraphModule, quantized: fx.GraphModule) -> None:
    for match in ("block.conv@1", "conv2d_1"):
        kept = fxquant.quantize(
            graph, [IMAGES], recipe={"rules": [{"match": match, "keep_float": True}]}, progress=False
        )
        assert [found.name for found in fxquant.report(kept).floats] == ["block.conv@1"]
    with pytest.raises(RecipeError, match=r"'head\.fd' matches no module, node or operator.*did you mean head\.fc"):
        fxquant.quantize(graph, [IMAGES], recipe={"rules": [{"match": "head.fd", "keep_float": True}]}, progress=False)
    report, comparison = fxquant.report(quantized), fxquant.compare(graph, quantized, [IMAGES], progress=False)
    for name in ("block.conv@1", "block:add", "relu_1", "image"):
        assert report.node(name).name == comparison.layer(name).name == layers_of_name(quantized, name)
    for found in (report.node, comparison.layer):
        with pytest.raises(UnknownNameError, match=r"no layer called 'hed\.fc' here; did you mean head\.fc"):
            found("hed.fc")


def layers_of_name(module: fx.GraphModule, name: str) -> str:
    """What a table calls it: of an input the integers."""
    node = find(module, name)
    return f"{name}:quantize" if node.op == "placeholder" else name_of(node)


def test_names_survive_saving(quantized: fx.GraphModule, tmp_path: Path) -> None:
    fxquant.save_graph(quantized, tmp_path / "net.pt2")
    read = fxquant.load_graph(tmp_path / "net.pt2")

    def facts(module: fx.GraphModule) -> list[Any]:
        nodes = [node for node in module.graph.nodes if node.op in ("placeholder", "call_function")]
        return [(name_of(n), layers_of(n), names.aliases_of(n), passes_of(n)) for n in nodes if "fxq.layers" in n.meta]

    assert facts(read) == facts(quantized) and output_names(read) == output_names(quantized)


def test_ports_are_called_as_the_model_calls_them(quantized: fx.GraphModule) -> None:
    made = standalone(fxquant.integer_ports(quantized), targets.get("c"), "net", sources=True)
    header = str(made.files["net.h"])
    assert "int net_run(const int8_t *image, int8_t *logits, int8_t *maps_0, int8_t *maps_1, uint8_t *arena);" in header
    assert [port["label"] for port in made.report["outputs"]] == ["logits", "maps_0", "maps_1"]
    steps = {name for layer in made.report["layers"] for name in layer["computes"]}
    assert {"block.conv", "block.bn", "block.relu", "block:add", "mean", "head.fc"} <= steps


def test_any_name_becomes_an_identifier() -> None:
    given = ["x", "x", "int", "a b", "a_b", "0", "arena", "", "über", 'q"*/', "uint8_t", "class", "int_"]
    found = identifiers(given)
    assert found == [
        "x",
        "x_1",
        "int_",
        "a_b",
        "a_b_1",
        "port_0",
        "arena_",
        "port",
        "ber",
        "q",
        "uint8_t_",
        "class_",
        "int__1",
    ]
    assert len(set(found)) == len(found) and all(name.isidentifier() for name in found)


def test_a_module_of_any_name_ends_no_comment() -> None:
    model = nn.Sequential()
    model.add_module("a*/b", nn.Linear(4, 4))
    x = torch.randn(2, 4)
    quantized = fxquant.quantize(fxquant.trace(model.eval(), x), [x], progress=False)
    assert name_of(find(quantized, "a*/b")) == "a*/b"
    source = standalone(fxquant.integer_ports(quantized), targets.get("c"), "net", sources=True).files["net.c"]
    assert "/* a* /b */" in str(source)


@dataclass(frozen=True)
class Swap(fxquant.Pass):
    """A user's pass that replaces ReLUs, by `make`."""

    make: Callable[[fx.GraphModule, fx.Node], fx.Node]

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Every ReLU becomes a ReLU6."""
        for node in calls(module.graph, aten.relu.default):
            with module.graph.inserting_before(node):
                node.replace_all_uses_with(self.make(module, node))
        return clean(module)


def _bare(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    found = module.graph.call_function(aten.relu6.default, node.args)
    found.meta["val"] = node.meta["val"]
    return found


def _absorbing(module: fx.GraphModule, node: fx.Node) -> fx.Node:
    found = _bare(module, node)
    absorb(found, node)
    return found


def test_a_users_pass_that_says_nothing_of_names(graph: fx.GraphModule) -> None:
    bare, told = Swap(_bare)(graph), Swap(_absorbing)(graph)
    # What a new node replaces is found for it (completion.py), whether or not the pass says it.
    for found in bare, told:
        new = list(calls(found.graph, aten.relu6.default))
        assert [name_of(n) for n in new] == ["block.relu", "block.relu@1", "relu_2"]
        assert {passes_of(n) for n in new} == {("trace", "Swap")}
        assert find(found, "block.relu@1") is find(found, "relu_1") is find(found, "relu6_default_1") is new[1]


def test_what_a_users_pass_takes_out_is_blamed_on_it(graph: fx.GraphModule) -> None:
    without = Swap(lambda _module, node: node.all_input_nodes[0])(graph)
    assert not list(calls(without.graph, aten.relu.default, aten.relu6.default))
    with pytest.raises(UnknownNameError, match=r"'block\.relu@1' is no value of this graph any more: Swap took it out"):
        find(without, "block.relu@1")


def test_a_foreign_graph_is_called_by_its_ids() -> None:
    module = fx.symbolic_trace(nn.Sequential(nn.ReLU(), nn.Linear(2, 2)))
    assert [name_of(node) for node in module.graph.nodes] == [node.name for node in module.graph.nodes]
    assert find(module, placeholders(module.graph)[0].name).op == "placeholder"
