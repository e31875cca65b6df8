"""INTEGER graphs in files (.fxg): JSON and bare tensors, of which nothing can run.

Torch has a format for graphs, too; its loader unpickles, and evaluates text of the file as Python. So this one is
fxquant's own, and hands nothing to anybody who evaluates: operators are looked up in a list of those that only compute
(`operators`), sizes have a grammar of their own (`sizes`), arguments are of a few kinds (`arguments`). Shapes are found
anew and compared with what the file says. docs/graph-file.md describes the format; `fxquant.tensor_file` packs it.
"""

from __future__ import annotations

from fxquant.graph_file.reading import read_graph
from fxquant.graph_file.writing import write_graph

__all__ = ["read_graph", "write_graph"]
