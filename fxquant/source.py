"""What a node of a graph is called, and where it comes from in the user's own model: file, line, code, module path."""

from __future__ import annotations

import re
from dataclasses import dataclass

from torch import fx
from torch._ops import OpOverload, OpOverloadPacket

_FRAME = re.compile(r'File "(?P<file>[^"]+)", line (?P<line>\d+), in (?P<function>\S+)(?:\n\s+(?P<code>[^\n]+))?')
# Frames of torch itself say nothing about the user's model.
_FOREIGN = ("/torch/", "<eval_with_key>")
# What torch writes where it decomposes an operation outside of all modules.
_NOWHERE = "_empty_nn_module_stack_from_metadata_hook"


@dataclass(frozen=True)
class Source:
    """A place in the user's model; empty strings and 0 where nothing is known. `kind` is the class of the module."""

    file: str = ""
    line: int = 0
    code: str = ""
    module: str = ""
    kind: str = ""

    def __str__(self) -> str:
        """'net.py:12 "y = self.conv(x)" (layer1.0)', as far as it is known.

        A model that torch itself puts together, as an nn.Sequential, has no lines: 'module 0, of class LayerNorm'.
        """
        if self.file:
            code, module = f' "{self.code}"' if self.code else "", f" ({self.module})" if self.module else ""
            return f"{self.file}:{self.line}{code}{module}"
        where = f"module {self.module}" if self.module else "the model itself" if self.kind else "(no source known)"
        return f"{where}, of class {self.kind}" if self.kind else where


def source_of(node: fx.Node) -> Source:
    """The model's own line for `node`: the innermost frame outside torch."""
    frames = list(_FRAME.finditer(node.meta.get("stack_trace") or ""))
    own = [f for f in frames if not any(mark in f["file"] for mark in _FOREIGN)]
    module, kind = _module(node)
    if not own:
        return Source(module=module, kind=kind)
    return Source(own[-1]["file"], int(own[-1]["line"]), (own[-1]["code"] or "").strip(), module, kind)


def module_path(node: fx.Node) -> str:
    """Dotted path of the module that called the operation, '' for the model itself."""
    return _module(node)[0]


def _module(node: fx.Node) -> tuple[str, str]:
    """Path and class of the module that called the operation."""
    stack = node.meta.get("nn_module_stack") or {}
    known = [(path, kind) for path, kind in stack.values() if path != _NOWHERE]
    if not known:
        return "", ""
    path, kind = known[-1]
    name = kind if isinstance(kind, str) else kind.__name__
    return re.sub(r"^L\['self'\]\.?", "", path), name.rpartition(".")[2]


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
    if isinstance(node.target, (OpOverload, OpOverloadPacket)):
        return str(node.target).removesuffix(".default")
    return str(getattr(node.target, "__name__", node.target))
