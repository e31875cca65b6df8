"""The graph in Graphviz's language, for those who want it: `dot -Tsvg model.dot`. Rendering is Graphviz's business."""

from __future__ import annotations

from fxquant.tools.view.document import Node, Run


def dot(run: Run) -> str:
    """The last stage: a box per node, an edge per operand with dtype and shape; float operations are dashed."""
    nodes = run.nodes()
    ids = {node.id for node in nodes}
    lines = [f"digraph {_quoted(run.label)} {{", '  node [shape=box, fontname="sans-serif"];']
    for node in nodes:
        style = ", style=dashed" if node.is_float else ""
        lines.append(f"  {_quoted(node.id)} [label={_quoted(_label(run, node))}{style}];")
    by_id = {node.id: node for node in nodes}
    for node in nodes:
        for source in node.inputs:
            if source in ids:
                lines.append(f"  {_quoted(source)} -> {_quoted(node.id)} [label={_quoted(_edge(by_id[source]))}];")
    return "\n".join([*lines, "}"]) + "\n"


def _label(run: Run, node: Node) -> str:
    found = run.measured.get(node.id)
    error = [f"{found['local_db']:.1f} dB alone, {found['cumulative_db']:.1f} dB since the input"] if found else []
    return "\n".join([node.id, node.operation, *error])


def _edge(node: Node) -> str:
    return f"{node.dtype}[{','.join(map(str, node.shape))}]" if node.dtype else ""


def _quoted(text: str) -> str:
    """A string of the language; a newline within it is a new line in the drawing."""
    escaped = text.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n")
    return f'"{escaped}"'
