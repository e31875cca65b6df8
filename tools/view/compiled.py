"""A compiled model carries its graph as records, so that a .fxq file alone can be looked at."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import asdict, replace
from typing import Any

from torch import fx

from fxquant.errors import ArtifactError, FxquantError
from fxquant.runtime.artifact import Artifact
from fxquant.tools.view.analysis import critical_path
from fxquant.tools.view.document import Constant, Memory, Multiplier, Node, Run, Stage, Step, Value, Weight
from fxquant.tools.view.nodes import nodes_of


def graph_records(quantized: fx.GraphModule) -> list[dict[str, Any]]:
    """The nodes of an INTEGER graph as plain data, without the ranges of single channels."""
    found = []
    for node in nodes_of(quantized):
        weight = None if node.weight is None else replace(node.weight, low=(), high=())
        found.append(asdict(replace(node, weight=weight)))
    return found


def compiled_run(artifact: Artifact, label: str = "") -> Run:
    """The run that a compiled model tells of. Raises FxquantError for one without a graph, or with a garbled one."""
    label = label or artifact.name
    if "graph" not in artifact.report:
        raise FxquantError(f"{label} was compiled without its graph: compile it again with fxquant.compile")
    try:
        return _told(artifact, label)
    except (KeyError, TypeError, ValueError, AttributeError, IndexError) as error:
        raise ArtifactError(f"the report in {label} garbles its graph ({error!r}): compile it again") from error


def _told(artifact: Artifact, label: str) -> Run:
    report = artifact.report
    pool = tuple(_node(data) for data in report["graph"])
    steps = tuple(
        Step(str(x["name"]), str(x["kernel"]).removeprefix("fxq_"), None, None, int(x.get("macs", 0)))
        for x in report.get("layers", ())
    )
    # Constants as a run sees them: some are expanded when the model is loaded.
    constant_bytes = artifact.resident_bytes or len(artifact.weight_view)
    memory = (Memory(str(artifact.target["name"]), artifact.arena_bytes, constant_bytes, None, steps, ()),)
    stage = Stage("compiled", "INTEGER", tuple(range(len(pool))))
    return Run(label, pool, (stage,), {node.id: stage.name for node in pool}, critical_path(pool), memory=memory)


def _node(data: Mapping[str, Any]) -> Node:
    """The record that `asdict`, and perhaps JSON, made plain."""
    names = ("inputs", "shape", "originals", "aliases", "passes")
    return Node(
        **{
            **data,
            **{name: tuple(data[name]) for name in names},
            "constants": tuple(Constant(**{**c, "shape": tuple(c["shape"])}) for c in data["constants"]),
            "multipliers": tuple(Multiplier(**m) for m in data["multipliers"]),
            "value": None if data["value"] is None else Value(**data["value"]),
            "weight": None if data["weight"] is None else Weight(**_tuples(data["weight"], ("shape", "low", "high"))),
        }
    )


def _tuples(data: Mapping[str, Any], names: Sequence[str]) -> dict[str, Any]:
    return {**data, **{name: tuple(data[name]) for name in names}}
