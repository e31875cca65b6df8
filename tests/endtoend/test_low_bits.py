"""Weights of few bits take as little as they say in graphs, files and artifacts, and mean the same everywhere."""

from __future__ import annotations

import io
from pathlib import Path

import pytest
import torch
from torch import fx, nn

import fxquant
from fxquant import targets
from fxquant.graph import constant_value, is_unpacked, text
from fxquant.runtime.artifact import Artifact
from fxquant.targets.hosted.compiler import compile_graph
from tests.endtoend.low_bits import few_bits, inputs
from tests.endtoend.networks import runnable_targets


@pytest.mark.parametrize("target", runnable_targets())
def test_compiled_code_is_exact(target: str) -> None:
    graph = few_bits(4, 2)
    net = fxquant.compile(graph, target, against_float=False)
    for found, wanted in zip(net(*inputs()), graph(*inputs()), strict=True):
        assert torch.equal(found, wanted)


def test_every_weight_is_packed() -> None:
    """Whatever reads it: none is left as bytes, and none has integers that its bits do not hold."""
    graph = few_bits(4, 2)
    unpacked = [node for node in graph.graph.nodes if is_unpacked(node)]
    assert {node.args[1] for node in unpacked} == {4, 2} and len(unpacked) == 12
    assert not [n for n in graph.graph.find_nodes(op="get_attr") if n.meta["val"].dtype == torch.int8]
    for node in unpacked:
        top = 1 << (int(node.args[1]) - 1)
        assert int(constant_value(graph, node).abs().amax()) < top


def _one_layer(bits: int) -> fx.GraphModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model, x = nn.Sequential(nn.Conv2d(64, 64, 3), nn.ReLU(), nn.Conv2d(64, 64, 3)), torch.randn(2, 64, 6, 6)
        recipe = {"rules": [{"match": "*", "weight": {"bits": bits}}]}
        return fxquant.quantize(fxquant.trace(model, x), [x], recipe=recipe, progress=False)


def test_files_shrink(tmp_path: Path) -> None:
    """By 45 and 70 % and more: that of the graph, torch's own, the artifact, flash. What is read again is the same."""
    sizes: dict[int, list[int]] = {}
    for bits in (8, 4, 2):
        graph, path = _one_layer(bits), tmp_path / f"{bits}.fxgraph"
        fxquant.save_graph(graph, path)
        read = fxquant.load_graph(path)
        assert text(read) == text(graph)
        exported = io.BytesIO()
        torch.export.save(torch.export.export(graph, (torch.randn(2, 64, 6, 6),)), exported)
        artifact: Artifact = compile_graph(graph, targets.get("x86-avx2"), "net")
        sizes[bits] = [path.stat().st_size, exported.getbuffer().nbytes, len(artifact.weights)]
    weights = 2 * 64 * 64 * 9
    for place, whole in enumerate(sizes[8]):
        for bits, share in ((4, 0.45), (2, 0.7)):
            assert whole - sizes[bits][place] > share * weights, sizes
