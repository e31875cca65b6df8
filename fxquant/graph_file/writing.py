"""From an INTEGER graph to a file: one record per node, in the order of the graph."""

from __future__ import annotations

import os
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.errors import GraphFileError
from fxquant.facts import facts_beside, facts_of
from fxquant.graph import constant_value, placeholders
from fxquant.graph_file.arguments import encoded, value_of
from fxquant.graph_file.operators import name_of
from fxquant.source import describe
from fxquant.tensor_file import TensorFileError, write_tensors

KIND, VERSION = "graph", 1


def write_graph(module: fx.GraphModule, path: str | os.PathLike[str]) -> None:
    """Write an INTEGER graph with all that is known of it, whole or not at all.

    Raises GraphFileError when the file cannot be written, or a node is nothing that a file can hold.
    """
    names = symbols_of(module)
    tensors: dict[str, Tensor] = {}
    records = []
    for node in module.graph.nodes:
        if node.op == "get_attr":
            tensors[str(node.target)] = constant_value(module, node)
        if node.op != "output":
            records.append(_record(node, names))
    document = {
        "batch": str(module.meta.get("fxq.batch", "")),
        "sizes": {name: _bounds(module, symbol) for symbol, name in names.items()},
        "nodes": records,
        "outputs": _outputs(module.graph.output_node()),
        **facts_beside(module),
    }
    try:
        write_tensors(path, KIND, VERSION, document, tensors)
    except (OSError, TensorFileError) as error:
        why = getattr(error, "strerror", None) or error
        raise GraphFileError(f"{os.fspath(path)} cannot be written: {why}; what was there is as it was") from error


def symbols_of(module: fx.GraphModule) -> dict[str, str]:
    """Names in the file, "n0" and so on, for the free sizes of a graph's inputs, by torch's names."""
    names: dict[str, str] = {}
    for node in placeholders(module.graph):
        for size in node.meta["val"].shape:
            if isinstance(size, torch.SymInt):
                for symbol in sorted(size.node.expr.free_symbols, key=str):
                    names.setdefault(str(symbol), f"n{len(names)}")
    return names


def _bounds(module: fx.GraphModule, symbol: str) -> list[int | None]:
    """Smallest and largest value, None where there is no largest."""
    env = placeholders(module.graph)[0].meta["val"].fake_mode.shape_env
    found = next(bounds for known, bounds in env.var_to_range.items() if str(known) == symbol)
    upper = int(found.upper) if found.upper.is_Integer else None
    return [int(found.lower), upper if upper is not None and upper < 1 << 62 else None]


def _record(node: fx.Node, names: dict[str, str]) -> dict[str, Any]:
    try:
        record = {"name": node.name, **_call(node), "value": value_of(node.meta.get("val"), names)}
    except ValueError as error:
        raise GraphFileError(f"{describe(node)} cannot be saved: {error}") from error
    return {**record, **facts_of(node)}


def _call(node: fx.Node) -> dict[str, Any]:
    if node.op == "placeholder":
        return {"input": str(node.target)}
    if node.op == "get_attr":
        return {"constant": str(node.target)}
    operator = name_of(node.target)
    if operator is None:
        raise ValueError("it is no operator of fxquant or ATen that does nothing but compute")
    found: dict[str, Any] = {"call": operator, "args": encoded(node.args)}
    if node.kwargs:
        found["kwargs"] = {name: encoded(value) for name, value in node.kwargs.items()}
    return found


def _outputs(node: fx.Node) -> str | list[str]:
    returned = node.args[0]
    several = returned if isinstance(returned, (list, tuple)) else [returned]
    names = [item.name for item in several if isinstance(item, fx.Node)]
    if len(names) != len(several) or not names:
        raise GraphFileError(f"the graph returns {returned}, and only tensors can be saved")
    return names if isinstance(returned, (list, tuple)) else names[0]
