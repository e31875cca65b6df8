"""What a node of a graph is called, and where it comes from in the user's own model: file, line, code, module path."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import fx

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)(?:\n\s+(?P<code>[^\n]+))?')
# Frames of torch itself say nothing about the user's model.
_FOREIGN = ("/torch/", "<eval_with_key>")
# What torch writes where it decomposes an operation outside of all modules.
_NOWHERE = "_empty_nn_module_stack_from_metadata_hook"


@dataclass(frozen=True)
class Source:
    """A place in the user's model; empty strings and 0 where nothing is known."""

    file: str = ""
    line: int = 0
    code: str = ""
    module: str = ""

    def __str__(self) -> str:
        """'net.py:12 "y = self.conv(x)" (layer1.0)', as far as it is known."""
        parts = []
        if self.file:
            parts.append(f"{self.file}:{self.line}")
        if self.code:
            parts.append(f'"{self.code}"')
        if self.module:
            parts.append(f"({self.module})")
        return " ".join(parts) or "(no source known)"


def source_of(node: fx.Node) -> Source:
    """The model's own line for `node`: the innermost frame outside torch."""
    frames = list(_FRAME.finditer(node.meta.get("stack_trace") or ""))
    own = [f for f in frames if not any(mark in f["file"] for mark in _FOREIGN)]
    module = module_path(node)
    if not own:
        return Source(module=module)
    return Source(own[-1]["file"], int(own[-1]["line"]), (own[-1]["code"] or "").strip(), module)


def module_path(node: fx.Node) -> str:
    """Dotted path of the module that called the operation, '' for the model itself."""
    stack = node.meta.get("nn_module_stack") or {}
    paths = [path for path, _ in stack.values() if path != _NOWHERE]
    return re.sub(r"^L\['self'\]\.?", "", paths[-1]) if paths else ""


def name_of(node: fx.Node) -> str:
    """The node's name for people (see `fxquant.names`): its layer's; a constant's; in a foreign graph the node's id."""
    if node.op == "get_attr":
        return str(node.target)
    return str(node.meta.get("fxq.name", node.name))


def describe(node: fx.Node) -> str:
    """Name, operation and source in one phrase, for error messages."""
    return f"{name_of(node)} = {target_name(node)} at {source_of(node)}"


def target_name(node: fx.Node) -> str:
    """'aten.conv2d', 'fxq.requantize', or the node's kind."""
    if node.op != "call_function":
        return f"{node.op} {node.target}"
    name = str(node.target)
    return name.removesuffix(".default") if "." in name else getattr(node.target, "__name__", name)
