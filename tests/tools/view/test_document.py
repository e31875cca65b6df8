"""The document: what it takes from graphs of every stage, and its other forms."""

from __future__ import annotations

import json
import os
import re
import subprocess
from dataclasses import fields, replace
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx

import fxquant
from fxquant.errors import ArtifactError, ArtifactWriteError, FxquantError, TargetError
from fxquant.observers import Observer
from fxquant.source import name_of
from fxquant.tools.compare.records import Comparison
from fxquant.tools.view import document as schema
from fxquant.tools.view.compiled import compiled_run
from fxquant.tools.view.dot import dot
from fxquant.tools.view.inspect import found, hint, row
from fxquant.tools.view.view import View
from tests import zoo

DOCS = Path(__file__).resolve().parents[3] / "docs" / "viewer.md"


def test_every_stage_can_be_seen() -> None:
    graph = fxquant.trace(zoo.build("resnet8"), zoo.inputs("resnet8", 2))
    observed = fxquant.prepare(graph)
    seen = [fxquant.view(module).document.runs[0] for module in (graph, observed)]
    assert [run.stages[0].name for run in seen] == ["FLOAT", "OBSERVED"]
    assert any(node.operation.startswith("observe MinMax") for node in seen[1].nodes())
    names = {name_of(node) for node in graph.graph.nodes if node.op != "get_attr"}
    assert {node.id for node in seen[0].nodes()} == names


def test_a_recording_knows_what_was_fused_and_made(resnet8: View) -> None:
    run = resnet8.document.runs[0]
    stages = {stage.name: place for place, stage in enumerate(run.stages)}
    fused = [node for node in run.nodes(stages["FuseOps"]) if node.fused_into]
    assert fused and {node.fused_into for node in fused} <= {node.id for node in run.nodes(stages["FuseOps"])}
    made, by_id = run.made_by, {node.id: node for node in run.nodes()}
    assert (made["x"], made["x:quantize"], made["stem.0:accumulators"]) == ("trace", "InsertQDQ", "FoldQDQ")
    first = by_id["stem.0"]
    assert (made["stem.0"], first.operation, first.module) == ("trace", "fxq.requantize", "stem.0")
    assert first.originals == ("stem.0", "stem.1", "stem.2") and "mlperf_tiny.py" in first.source
    wrote = ("trace", "FoldBatchNorm", "Annotate", "FuseOps", "PropagateRanges", "InsertQDQ", "FoldQDQ")
    assert first.passes == wrote
    assert by_id["x:quantize"].passes == ("InsertQDQ",)
    # A pass that leaves a node as it is does not claim it.
    assert by_id["blocks.1.shortcut"].passes == tuple(
        name for name in wrote if name not in ("FoldBatchNorm", "FuseOps")
    )


def test_to_look_changes_nothing(resnet8: View) -> None:
    data = [zoo.inputs("resnet8", 4, seed=seed) for seed in range(2)]
    graph = fxquant.trace(zoo.build("resnet8"), data[0])
    plain = fxquant.quantize(graph, data, progress=False)
    recorder = fxquant.Recorder(graph)
    watched = fxquant.quantize(graph, data, observe=recorder, progress=False)
    fxquant.view(recorder, data=data, progress=False)
    assert torch.equal(plain(*data[0]), watched(*data[0]))
    calibrated = dict(recorder.stages)["InsertObservers"]
    observers = [module for module in calibrated.modules() if isinstance(module, Observer)]
    # 8 images were calibrated with, and not one more was recorded by looking.
    assert len(observers) > 10 and all(o.enabled for o in observers)
    assert next(o for o in observers if o.where.startswith("x =")).count == 8 * 3 * 32 * 32


def test_the_critical_path_is_the_chain_with_the_most_products(resnet8: View) -> None:
    run = resnet8.document.runs[0]
    by_id = {node.id: node for node in run.nodes()}
    path = [by_id[name] for name in run.critical_path]
    assert path[0].id == "x" and path[-1].kind == "output"
    assert all(first.id in second.inputs for first, second in pairwise(path))
    left_out = sum(node.macs for node in by_id.values()) - sum(node.macs for node in path)
    # The shortcuts' two 1x1 convolutions, which are cheaper than the bodies beside them.
    assert left_out == 2 * 131_072


def test_a_compiled_file_shows_its_graph(quantized: fx.GraphModule, tmp_path: Path) -> None:
    net = fxquant.compile(quantized, target="native")
    run = fxquant.view(net).document.runs[0]
    plain = fxquant.view(quantized).document.runs[0]
    assert [node.id for node in run.nodes()] == [node.id for node in plain.nodes()]
    loaded = fxquant.view(fxquant.load(net.save(tmp_path / "net.fxq"))).document.runs[0]
    (memory,) = loaded.memory
    # What the file tells, and nothing made up where it tells nothing.
    assert (memory.target, memory.arena_bytes) == (net.artifact.target["name"], net.artifact.arena_bytes)
    assert memory.constant_bytes == (net.artifact.resident_bytes or len(net.artifact.weight_view)) > 70_000
    assert memory.peak_step is None and {step.constant_bytes for step in memory.steps} == {None}
    assert loaded.nodes() == run.nodes()
    assert [step.node for step in loaded.memory[0].steps] == [layer["name"] for layer in net.report["layers"]]


def test_a_garbled_report_is_named(quantized: fx.GraphModule) -> None:
    artifact = fxquant.compile(quantized, target="native", against_float=False).artifact
    node = artifact.report["graph"][0]
    garbled: Any
    for garbled in ([1], [{}], {"a": 1}, 7, [node | {"inputs": 3}], [node | {"value": [1]}], [node | {"extra": 1}]):
        with pytest.raises(ArtifactError, match=r"the report in .* garbles its graph"):
            compiled_run(replace(artifact, report={**artifact.report, "graph": garbled}))
    with pytest.raises(ArtifactError, match="garbles its graph"):
        compiled_run(replace(artifact, report={**artifact.report, "layers": [{"name": "x"}]}))


def test_a_graph_of_somebody_elses_is_drawn() -> None:
    class Net(torch.nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.weight, self.layer = torch.nn.Parameter(torch.ones(4)), torch.nn.Linear(4, 4)

        def forward(self, x: torch.Tensor) -> torch.Tensor:
            y: torch.Tensor = self.layer(x * self.weight).relu()
            return y

    run = fxquant.view(fx.symbolic_trace(Net())).document.runs[0]
    assert [node.operation for node in run.nodes()][1:4] == ["mul", "Linear", "call_method relu"]
    assert run.nodes()[1].constants == (schema.Constant("weight", "float32", (4,), 16),)


def test_a_generator_is_enough() -> None:
    data = [(torch.randn(4, 3, 8, 8),) for _ in range(2)]
    model = torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU(), torch.nn.Conv2d(4, 4, 1))
    graph = fxquant.trace(model.eval(), data[0])
    recorder = fxquant.Recorder(graph)
    fxquant.quantize(graph, data, observe=recorder, progress=False)
    streamed = fxquant.view(recorder, data=iter(data), progress=False).document
    assert streamed == fxquant.view(recorder, data=data, progress=False).document
    assert streamed.runs[0].samples == 8 and streamed.runs[0].stages[-1].output_db is not None


@pytest.mark.parametrize(("recipe", "least", "most"), [("default", 0.0, 1e-6), ("vnni", 1e-6, 2.0**-11)])
def test_rounded_multipliers_are_told(recipe: str, least: float, most: float) -> None:
    torch.manual_seed(0)
    # Groups of a transposed convolution share their weight's scales.
    model = torch.nn.Sequential(torch.nn.Conv2d(16, 24, 1), torch.nn.ConvTranspose2d(24, 12, 2, 2, groups=2)).eval()
    x = torch.randn(4, 16, 9, 9)
    quantized = fxquant.quantize(fxquant.trace(model, x), [(x,)], recipe=recipe, progress=False)
    nodes = fxquant.view(quantized, progress=False).document.runs[0].nodes()
    found = [multiplier for node in nodes for multiplier in node.multipliers]
    assert len(found) == 2
    assert all(not m.is_bound and least < m.relative_error < most for m in found)


def test_json_and_dot(resnet8: View, tmp_path: Path) -> None:
    data = json.loads(resnet8.save(tmp_path / "net.json").read_text())
    assert data["schema"] == schema.SCHEMA
    assert [node["id"] for node in data["runs"][0]["pool"]] == [node.id for node in resnet8.document.runs[0].pool]
    text = resnet8.save(tmp_path / "net.dot").read_text()
    run = resnet8.document.runs[0]
    assert text.count(" -> ") == sum(len(node.inputs) for node in run.nodes())
    assert '"x" -> "x:quantize" [label="float32[N,3,32,32]"];' in text
    quoted = dot(schema.Run('a "quoted" \\ name', (), (schema.Stage("s", "FLOAT", ()),), {}, ()))
    assert quoted.startswith('digraph "a \\"quoted\\" \\\\ name" {')


def test_graphviz_reads_it(resnet8: View, tmp_path: Path) -> None:
    path = resnet8.save(tmp_path / "net.dot")
    try:
        done = subprocess.run(["dot", "-Tsvg", str(path)], capture_output=True, text=True, check=False)
    except FileNotFoundError:
        pytest.skip("Graphviz is not installed")
    assert done.returncode == 0, done.stderr


def test_inspect_finds_as_the_page_does(resnet8: View) -> None:
    run = resnet8.document.runs[0]
    worst = found(run, sort="local_db")
    errors = [run.measured[node.id]["local_db"] for node in worst]
    assert errors == sorted(errors) and len(errors) == len(run.measured)
    high = [n for n in run.nodes() if "requantize" in n.operation and n.value is not None and n.value.high > 2]
    assert high and found(run, "fxq.requantize high>2") == high
    convolutions = found(run, "conv range>3")
    assert convolutions and "blocks.0.body.0.0" in [node.id for node in found(run, "conv")]
    assert all(row(node, run)[1] in ("conv > requantize", "conv > add") for node in convolutions)
    assert [node.id for node in found(run, "blocks.0:relu")] == ["blocks.0.body.1.0"]
    assert [node.id for node in found(run, "batch_norm_2")] == ["blocks.0.body.1.0:accumulators", "blocks.0.body.1.0"]
    assert hint(run, "conv range>3") == "" and "did you mean blocks.0.body.0.0" in hint(run, "blocks.0.bodi.0.0")
    assert found(run, "sqnr<1000 sqnr>=1000") == []
    with pytest.raises(FxquantError, match="nothing is called 'colour'; there are local_db"):
        found(run, "colour>3")
    with pytest.raises(FxquantError, match="nothing is called 'taste'"):
        found(run, sort="taste")


ROOT = DOCS.parents[1]
EXAMPLES = sorted(
    {
        example
        for path in ("README.md", "docs/viewer.md", "fxquant/commands/see.py", "tools/view/page/lists.js")
        for example in re.findall(r"conv(?: [a-z_]+[<>=]+-?\d[\d.]*\d?)+", (ROOT / path).read_text())
    }
)


@pytest.fixture(scope="module")
def wide() -> schema.Run:
    """Two convolutions; the second has a wide range, of which the recipe clips some."""
    layers = torch.nn.Conv2d(3, 8, 3), torch.nn.ReLU(), torch.nn.Conv2d(8, 8, 3)
    model = torch.nn.Sequential(*layers).eval()
    with torch.no_grad():
        layers[2].weight.copy_(torch.randn(8, 8, 3, 3, generator=torch.Generator().manual_seed(1)))
    x = torch.randn(4, 3, 9, 9, generator=torch.Generator().manual_seed(0))
    graph = fxquant.trace(model, x)
    recipe = {"activation": {"observer": "percentile:98"}}
    quantized = fxquant.quantize(graph, [x], recipe=recipe, progress=False)
    return fxquant.view(quantized, model=graph, data=x, progress=False).document.runs[0]


def test_examples_of_queries_are_there() -> None:
    assert EXAMPLES == ["conv clipped>0.1", "conv clipped>0.1 low<-4", "conv range>6"]


@pytest.mark.parametrize("query", EXAMPLES)
def test_the_documentation_s_queries_find_rows(query: str, wide: schema.Run) -> None:
    rows = [row(node, wide) for node in found(wide, query)]
    assert ["2", "conv > requantize"] in [cells[:2] for cells in rows]


def test_the_schema_is_documented() -> None:
    page = DOCS.read_text()
    for record in (schema.Document, schema.Run, schema.Stage, schema.Node, schema.Value, schema.Weight,
                   schema.Multiplier, schema.Constant, schema.Memory, schema.Step, schema.Tenant):  # fmt: skip
        section = page.partition(f"`{record.__name__}`")[2].partition("\n\n")[0]
        assert section, f"docs/viewer.md does not tell of {record.__name__}"
        for field in fields(record):
            assert f"`{field.name}`" in section, f"docs/viewer.md: {record.__name__} lacks {field.name}"


def test_bad_input(quantized: fx.GraphModule, resnet8: View, tmp_path: Path) -> None:
    with pytest.raises(FxquantError, match="not a Linear: trace it first"):
        fxquant.view(torch.nn.Linear(2, 2))
    with pytest.raises(FxquantError, match="this recording is empty"):
        fxquant.view(fxquant.Recorder())
    with pytest.raises(FxquantError, match="against a float model"):
        fxquant.view(quantized, data=zoo.inputs("resnet8", 2))
    with pytest.raises(TargetError, match="unknown target 'cortex-m5'"):
        fxquant.view(quantized, targets=("cortex-m5",))
    with pytest.raises(FxquantError, match=r"ends in none of \.html"):
        resnet8.save(tmp_path / "net.pdf")
    graph, comparison = fxquant.trace(torch.nn.ReLU(), torch.ones(2, 3)), Comparison((), (), None, 0)
    for wanted in ({"targets": ["c"]}, {"model": graph, "data": torch.ones(2, 3)}, {"comparison": comparison}):
        with pytest.raises(FxquantError, match="those of an INTEGER graph, this one is FLOAT"):
            fxquant.view(graph, **wanted)
    with pytest.raises(FxquantError, match="a comparison is of one graph"):
        fxquant.view({"a": quantized}, comparison=comparison)
    with pytest.raises(FxquantError, match="targets: for a graph or a Recorder"):
        fxquant.view(resnet8.document.runs[0], targets=["c"])
    with pytest.raises(FxquantError, match="the iterable gave nothing"):
        fxquant.view(quantized, model=graph, data=iter([]))
    with pytest.raises(FxquantError, match="the mapping is empty"):
        fxquant.view({})
    with pytest.raises(ArtifactWriteError, match="cannot write"):
        resnet8.save(tmp_path / "missing" / "net.html")
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_file(resnet8: View, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "net.html"
    path.write_text("old")

    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.raises(ArtifactWriteError, match=r"net\.html: No space left on device"):
        resnet8.save(path)
    monkeypatch.undo()
    assert path.read_text() == "old" and [p.name for p in tmp_path.iterdir()] == ["net.html"]
