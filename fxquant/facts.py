"""What the passes found out about an INTEGER graph, as plain data: a saved graph is explained like the original.

`torch.export` keeps operators and constants, but neither node names nor what fxquant noted on the nodes: ranges and
their reasons, plans, origins, source lines. `facts_of` writes these down, `with_facts` puts them back on a graph.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict
from operator import attrgetter
from typing import Any

from torch import Tensor, fx

from fxquant import names
from fxquant import scheme as schemes
from fxquant.graph import is_float
from fxquant.history import PASSES, passes_of
from fxquant.plan import Plan, Range, plan_of, range_of
from fxquant.qparams import QParams
from fxquant.scheme import Scheme
from fxquant.source import name_of, source_of

# The constants of a saved graph live under this name (see `fxquant.api`).
WRAPPER = "graph_module."

_NOTES = {"fxq.origin": str, "fxq.island": bool}


def facts_of(module: fx.GraphModule) -> dict[str, Any]:
    """The batch, the names beside the graph, and what is known of every input and call, in order; JSON-ready."""
    return {
        "batch": str(module.meta.get("fxq.batch", "")),
        "outputs": list(names.output_names(module)),
        "gone": dict(module.meta.get(names.GONE, {})),
        "nodes": [_facts(node) for node in _valued(module.graph)],
    }


def with_facts(module: fx.GraphModule, facts: Mapping[str, Any]) -> fx.GraphModule:
    """`module` with the names and notes of `facts`.

    If these are missing or about another graph, `module` itself, its float operations marked as float islands.
    """
    nodes = _valued(module.graph)
    stored: Any = facts.get("nodes")
    if not _fit(nodes, stored):
        return _with_islands(module)
    known = dict(zip(nodes, stored, strict=True))
    graph, copies = fx.Graph(), dict[fx.Node, fx.Node]()
    for node in module.graph.nodes:
        facts_here = known.get(node, {})
        name, target = facts_here.get("name"), node.target
        if node.op == "get_attr":
            target = name = str(node.target).removeprefix(WRAPPER)
        elif node.op == "placeholder":
            target = str(name)
        arguments = fx.map_arg((node.args, node.kwargs), copies.__getitem__)
        copy = graph.create_node(node.op, target, *arguments, name=name)
        copy.meta = {**_unnamed(node), **_notes(facts_here)}
        copies[node] = copy
    constants = {str(n.target).removeprefix(WRAPPER): attrgetter(str(n.target))(module) for n in _constants(module)}
    renamed = fx.GraphModule(constants, graph, class_name="FxquantGraph")
    renamed.meta = {**module.meta, "fxq.batch": str(facts.get("batch", "")), **_names_beside(facts)}
    names.settle(renamed.graph)
    return renamed


def _names_beside(facts: Mapping[str, Any]) -> dict[str, Any]:
    """The names that stand beside the graph."""
    outputs, gone = facts.get("outputs", ()), facts.get("gone", {})
    return {names.OUTPUTS: tuple(map(str, outputs)), names.GONE: {str(name): str(gone[name]) for name in gone}}


def _with_islands(module: fx.GraphModule) -> fx.GraphModule:
    for node in module.graph.nodes:
        node.meta = _unnamed(node)
        if node.op == "call_function" and is_float(node) and not str(node.target).startswith("fxq."):
            node.meta["fxq.island"] = True
            node.meta["fxq.plan"] = Plan(False, "the file does not say why", schemes.activation(), schemes.weight())
    names.settle(module.graph)
    return module


def _unnamed(node: fx.Node) -> dict[str, Any]:
    """What is known of a node without names by its modules, which are those of the file."""
    return {key: note for key, note in node.meta.items() if key not in (names.NAME, names.LAYERS)}


def _valued(graph: fx.Graph) -> list[fx.Node]:
    """Inputs and calls that give tensors: what an export keeps, in an order that it keeps."""
    kinds = ("placeholder", "call_function")
    return [n for n in graph.nodes if n.op in kinds and isinstance(n.meta.get("val"), Tensor)]


def _fit(nodes: list[fx.Node], stored: Any) -> bool:
    if not isinstance(stored, list) or len(stored) != len(nodes):
        return False
    return all(isinstance(s, dict) and s.get("value") == _value(n) for n, s in zip(nodes, stored, strict=True))


def _value(node: fx.Node) -> str:
    return f"{node.op} {node.meta['val'].dtype} {node.meta['val'].ndim}"


def _facts(node: fx.Node) -> dict[str, Any]:
    found: dict[str, Any] = {"name": _name(node), "value": _value(node), "source": asdict(source_of(node))}
    found |= {"layer": name_of(node), "layers": [asdict(layer) for layer in node.meta.get(names.LAYERS, ())]}
    found |= {"passes": list(passes_of(node))}
    found |= {key: node.meta[key] for key in _NOTES if key in node.meta}
    value_range, plan = range_of(node), plan_of(node)
    if value_range is not None:
        found["range"] = asdict(value_range)
    if plan is not None:
        found["plan"] = asdict(plan)
    if isinstance(weight := node.meta.get("fxq.weight_qparams"), QParams):
        found["weight"] = asdict(weight)
    return found


def _name(node: fx.Node) -> str:
    return str(node.target) if node.op == "placeholder" else node.name


def _notes(facts: Mapping[str, Any]) -> dict[str, Any]:
    notes: dict[str, Any] = {key: kind(facts[key]) for key, kind in _NOTES.items() if key in facts}
    if "range" in facts:
        notes["fxq.range"] = Range(**{**facts["range"], "qparams": _qparams(facts["range"]["qparams"])})
    if "plan" in facts:
        schemes = {key: Scheme(**facts["plan"][key]) for key in ("activation", "weight")}
        notes["fxq.plan"] = Plan(**{**facts["plan"], **schemes})
    if "weight" in facts:
        notes["fxq.weight_qparams"] = _qparams(facts["weight"])
    source = facts.get("source", {})
    if facts:  # in place of what torch noted: the lines and modules of the export itself
        notes[names.NAME] = str(facts.get("layer", facts["name"]))
        notes |= _layers(facts)
        notes[PASSES] = tuple(map(str, facts.get("passes", ())))
        line = f'File "{source["file"]}", line {source["line"]}, in forward\n    {source["code"]}'
        notes["stack_trace"] = line if source.get("file") else ""
        notes["nn_module_stack"] = {"": (source["module"], "")} if source.get("module") else {}
    return notes


def _layers(facts: Mapping[str, Any]) -> dict[str, Any]:
    layers = tuple(names.Layer(str(layer["name"]), str(layer["id"])) for layer in facts.get("layers", ()))
    return {names.LAYERS: layers} if layers else {}


def _qparams(data: Mapping[str, Any]) -> QParams:
    return QParams(**{**data, "scale": tuple(data["scale"]), "zero_point": tuple(data["zero_point"])})


def _constants(module: fx.GraphModule) -> list[fx.Node]:
    return [node for node in module.graph.nodes if node.op == "get_attr"]
