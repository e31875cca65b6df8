"""Whether what a user calls a layer is found wherever a name is taken, from the FLOAT graph to the compiled file."""

from __future__ import annotations

from torch import fx

import fxquant
from fxquant.errors import UnknownNameError
from fxquant.graph import outputs, placeholders
from fxquant.names import Layer, find, output_names
from fxquant.runtime.artifact import Artifact
from fxquant.source import name_of
from fxquant.targets.standalone.header import identifiers
from fxquant.tools.view.build import run_of
from fxquant.tools.view.inspect import found


def unfindable(graph: fx.GraphModule, quantized: fx.GraphModule, artifact: Artifact) -> list[str]:
    """Places where a layer of the FLOAT `graph` is not found by its name or its node's id; none, if all is well."""
    lost = [f"{name_of(n)}: a second one" for n in _named(quantized) if find(quantized, name_of(n)) is not n]
    lost += [f"{name}: an output" for name in _ports(quantized, artifact)]
    report, run = fxquant.report(quantized), run_of(quantized)
    inputs = {name_of(node) for node in placeholders(graph.graph)}
    steps = {name for step in artifact.report["layers"] for name in (step["name"], *step["computes"])}
    records = {name for node in artifact.report["graph"] for name in (node["id"], *node["originals"], *node["aliases"])}
    for node in _named(graph):
        for layer in node.meta.get("fxq.layers", ()):
            if layer.name in inputs or _is_gone(quantized, layer):
                continue
            for name in (layer.name, layer.id):
                lost += [f"{name}: why"] * (name not in fxquant.why(quantized, name))
                lost += [f"{name}: inspect"] * (not found(run, name))
                lost += [f"{name}: compiled"] * (name not in steps | records)
                report.node(name)
    # What costs anything has a step of its own.
    lost += [
        f"{node.name}: no step" for node in report.nodes if node.macs and node.name.rpartition(":")[0] not in steps
    ]
    return lost


def _named(module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in module.graph.nodes if node.op in ("placeholder", "call_function")]


def _is_gone(quantized: fx.GraphModule, layer: Layer) -> bool:
    """Whether a pass computed the layer once and for all, which must then be said."""
    try:
        find(quantized, layer.name)
    except UnknownNameError as error:
        return "took it out" in str(error) and "Constants took it out" in str(error)
    return False


def _ports(quantized: fx.GraphModule, artifact: Artifact) -> list[str]:
    """Names of ports that differ between the graph, the compiled file and a C header."""
    ours = [*(str(node.target) for node in placeholders(quantized.graph)), *output_names(quantized)]
    theirs = [port.name for port in (*artifact.inputs, *artifact.outputs)]
    named = [find(quantized, name) for name in output_names(quantized)]
    if named != outputs(quantized.graph):
        return ["outputs are not found by their names"]
    return [name for name, other, c in zip(ours, theirs, identifiers(ours), strict=True) if not name == other == c]
