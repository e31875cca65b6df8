"""What networkx says about a graph of records: order, and the chain of nodes that costs the most."""

from __future__ import annotations

from collections.abc import Sequence

import networkx

from fxquant.tools.view.document import Node


def graph_of(nodes: Sequence[Node]) -> networkx.DiGraph:
    """Nodes by id, each with its record; edges from inputs."""
    graph = networkx.DiGraph()
    graph.add_nodes_from((node.id, {"record": node}) for node in nodes)
    graph.add_edges_from((source, node.id) for node in nodes for source in node.inputs if source in graph)
    return graph


def critical_path(nodes: Sequence[Node]) -> tuple[str, ...]:
    """The chain with the most MACs, from an input to an output: what no number of parallel workers makes shorter."""
    graph = graph_of(nodes)
    macs = {node.id: node.macs for node in nodes}
    for source, user in graph.edges:
        # One more for every step, so that of chains without products the longest is taken.
        graph.edges[source, user]["weight"] = macs[user] + 1
    return tuple(networkx.dag_longest_path(graph))
