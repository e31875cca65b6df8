"""From a file to an INTEGER graph. Nothing that the file says is trusted.

A node may only use nodes before it, so that there are no cycles; its value is computed anew on fake tensors, which have
a shape and no elements, and must be what the file says; what comes out must be INTEGER.
"""

from __future__ import annotations

import keyword
import os
from collections.abc import Callable
from contextlib import contextmanager
from typing import Any

import torch
from torch import Tensor, fx
from torch._dynamo.source import ConstantSource
from torch._subclasses.fake_tensor import FakeTensorMode
from torch.fx.experimental.symbolic_shapes import DimDynamic, ShapeEnv

import fxquant.primitives  # noqa: F401  the file's operators must be known before it is read
from fxquant.arguments import arguments
from fxquant.errors import FxquantError, GraphFileError
from fxquant.facts import NAMES, notes_beside, notes_of
from fxquant.graph import FxquantGraph
from fxquant.graph_file.arguments import DTYPES, decoded, is_same, value_of
from fxquant.graph_file.operators import PYTHON, find
from fxquant.graph_file.sizes import computed
from fxquant.graph_file.writing import KIND, VERSION
from fxquant.invariants import verify
from fxquant.stage import Stage, set_stage
from fxquant.tensor_file import TensorFileError, read_tensors

_KEYS = frozenset({"name", "input", "constant", "call", "args", "kwargs", "value"}) | NAMES
_MOST_SIZES, _MOST_AXES, _MOST_ELEMENTS = 16, 32, 1 << 48
# Sizes are compared at these distances from the smallest that the file allows.
_TRIED = (0, 1, 5, 18)


def read_graph(path: str | os.PathLike[str]) -> fx.GraphModule:
    """The INTEGER graph of a file that `write_graph` wrote, with all that is known of it.

    Raises GraphFileError, naming file and node, for a file that is missing, damaged, foreign, or no valid graph.
    """
    name = os.fspath(path)
    try:
        document, tensors = read_tensors(path, KIND, VERSION)
        module = _Reader(tensors).read(document)
    except FileNotFoundError as error:
        raise GraphFileError(f"there is no file {name}") from error
    except OSError as error:
        raise GraphFileError(f"{name} cannot be read: {error.strerror or error}") from error
    except TensorFileError as error:
        raise GraphFileError(f"{name} is {error}; 'quantize' makes such a file from the model") from error
    except ValueError as error:
        raise GraphFileError(f"{name} holds no valid graph: {error}; quantize the model again") from error
    set_stage(module, Stage.INTEGER)
    try:
        verify(module, Stage.INTEGER, f"{name} should hold a graph that is")
    except (FxquantError, RuntimeError) as error:
        raise GraphFileError(str(error)) from error
    return module


class _Reader:
    """One graph on its way in. All methods raise ValueError for what is wrong with the file."""

    def __init__(self, tensors: dict[str, Tensor]) -> None:
        self.tensors, self.used = tensors, dict[str, Tensor]()
        self.env = ShapeEnv()
        self.mode = FakeTensorMode(shape_env=self.env, allow_non_fake_inputs=True)
        self.graph, self.nodes = fx.Graph(), dict[str, fx.Node]()
        self.sizes, self.names = dict[str, int | torch.SymInt](), dict[str, str]()
        self.lowest: dict[str, int] = {}

    def read(self, document: Any) -> fx.GraphModule:
        """The graph."""
        with _blame("it"):
            batch, sizes, nodes = _text(document["batch"]), document["sizes"], document["nodes"]
            self._add_sizes(sizes)
        for number, record in enumerate(nodes if isinstance(nodes, list) else []):
            with _blame(f"node {number}"):
                name = _identifier(record["name"])
            with _blame(f"node {name}"):
                self._add_node(name, record)
        with _blame("what it returns"):
            outputs = document["outputs"]
            several = outputs if isinstance(outputs, list) else [outputs]
            found = [self._node(name) for name in several]
            if not found or not all(isinstance(node.meta["val"], Tensor) for node in found):
                raise ValueError("only tensors can be returned")
            self.graph.output(tuple(found) if isinstance(outputs, list) else found[0])
        with _blame("it"):
            module = FxquantGraph(self.used, self.graph)
            module.meta.update({"fxq.batch": batch, **notes_beside(document)})
        return module

    def _add_sizes(self, sizes: Any) -> None:
        if len(sizes) > _MOST_SIZES:
            raise ValueError(f"{len(sizes)} sizes are free")
        for number, (name, (low, high)) in enumerate(sizes.items()):
            low, high = _count(low), None if high is None else _count(high)
            # Away from each other, and from small sizes that a model may have, so that none is taken for another.
            hint = max(low, 2) + 3 + 7 * number
            if high is not None:
                hint = min(hint, high)
            if hint < max(low, 2):
                raise ValueError(f"the size {name} is at least {low} and at most {high}")
            symbol = self.env.create_symbol(hint, ConstantSource(name), dynamic_dim=DimDynamic.DYNAMIC)
            self.env.constrain_symbol_range(symbol, low, (1 << 62) if high is None else high)
            self.sizes[name] = self.env.create_symintnode(symbol, hint=hint)
            self.names[str(symbol)] = name
            self.lowest[name] = max(low, 2)

    def _add_node(self, name: str, record: Any) -> None:
        if not record.keys() <= _KEYS:
            raise ValueError(f"nothing is called {next(iter(record.keys() - _KEYS))!r}")
        if name in self.nodes:
            raise ValueError("there are two of this name")
        kinds: dict[str, Callable[[str, Any], fx.Node]] = {
            "input": self._input,
            "constant": self._constant,
            "call": self._call,
        }
        (kind,) = kinds.keys() & record.keys()
        node = self.nodes[name] = kinds[kind](name, record)
        found = value_of(node.meta["val"], self.names)
        for distance in _TRIED:
            values = {size: lowest + distance for size, lowest in self.lowest.items()}
            if not is_same(record["value"], found, values, values):
                raise ValueError(f"it gives {_shown(found)}, and the file says {_shown(record['value'])}")
        node.meta.update(notes_of(record))

    def _input(self, name: str, record: Any) -> fx.Node:
        target, value = _identifier(record["input"]), record["value"]
        if any(node.target == target for node in self.graph.find_nodes(op="placeholder")):
            raise ValueError(f"two inputs are called {target!r}")
        shape = [computed(size, self.sizes) for size in value["shape"]]
        node = self.graph.create_node("placeholder", target, name=name)
        with self.mode:
            node.meta["val"] = _bounded(torch.empty(shape, dtype=DTYPES[value["dtype"]]))
        return node

    def _constant(self, name: str, record: Any) -> fx.Node:
        target = _path(record["constant"])
        self.used[target] = self.tensors[target]
        node = self.graph.create_node("get_attr", target, name=name)
        node.meta["val"] = self.mode.from_tensor(self.tensors[target], static_shapes=True)
        return node

    def _call(self, name: str, record: Any) -> fx.Node:
        operator = find(_text(record["call"]))
        if operator is None:
            raise ValueError(f"it calls {record['call']!r}, which is no operator that only computes")
        args, kwargs = decoded(record["args"], self._node), record.get("kwargs", {})
        kwargs = {_identifier(key): decoded(value, self._node) for key, value in kwargs.items()}
        node = self.graph.create_node("call_function", operator, tuple(args), kwargs, name=name)
        _require_tensors(node)
        operands = fx.map_arg((node.args, node.kwargs), lambda operand: operand.meta["val"])
        if record["call"] in PYTHON:
            _require_sizes(record["call"], operands[0])
        with self.mode, torch.no_grad():
            node.meta["val"] = _bounded(operator(*operands[0], **operands[1]))
        return node

    def _node(self, name: Any) -> fx.Node:
        if not isinstance(name, str) or name not in self.nodes:
            raise ValueError(f"no node before it is called {str(name)[:80]!r}")
        return self.nodes[name]


@contextmanager
def _blame(what: str) -> Any:
    """Say of whatever goes wrong, in the file's data or in torch's shape functions, where it did."""
    try:
        yield
    except Exception as error:  # a shape function may raise anything when it is given nonsense
        lines = str(error).strip().splitlines() or [""]
        kind = "" if isinstance(error, (ValueError, FxquantError)) else f"{type(error).__name__}: "
        raise ValueError(f"{what}: {kind}{lines[0][:300]}") from error


def _require_tensors(node: fx.Node) -> None:
    """To torch, None is a tensor that is not there, wherever an operator takes one."""
    if not isinstance(node.target, torch._ops.OpOverload):
        return
    for wanted, given in zip(node.target._schema.arguments, arguments(node), strict=True):
        several = given if isinstance(given, list) else [given]
        if str(wanted.type) in ("Tensor", "List[Tensor]") and None in several:
            raise ValueError(f"its {wanted.name} is no tensor")


def _require_sizes(name: str, operands: tuple[Any, ...]) -> None:
    """Python's arithmetic is for sizes: it repeats lists, too."""
    first, *rest = operands
    numbers = rest if name == "operator.getitem" else operands
    if name == "operator.getitem" and not isinstance(first, (list, tuple)):
        raise ValueError("it takes a part of what has no parts")
    if not all(type(n) is int or isinstance(n, torch.SymInt) for n in numbers):
        raise ValueError("it computes with what is no size")


def _bounded(value: Any) -> Any:
    """The value, if no machine is too small for it."""
    for item in value if isinstance(value, (list, tuple)) else [value]:
        if isinstance(item, Tensor):
            fixed = [size for size in item.shape if isinstance(size, int)]
            elements = 1
            for size in fixed:
                elements *= size
            if item.ndim > _MOST_AXES or elements > _MOST_ELEMENTS:
                raise ValueError(f"a tensor of the shape {tuple(item.shape)} fits no machine")
        elif isinstance(item, int) and abs(item) >= 1 << 62:
            raise ValueError(f"the size {item} fits no machine")
    return value


def _text(data: Any) -> str:
    if not isinstance(data, str):
        raise ValueError(f"{str(data)[:80]!r} is no text")
    return data


def _identifier(data: Any) -> str:
    """A name that may stand in the code which torch.fx generates of a graph."""
    if not _text(data).isidentifier() or keyword.iskeyword(data) or data.startswith("__") or len(data) > 1000:
        raise ValueError(f"{data[:80]!r} is no name")
    return str(data)


def _path(data: Any) -> str:
    """The name of a constant: "layer1.0.weight"."""
    parts = _text(data).split(".")
    if len(parts) > 64 or not all(part.isdecimal() or _identifier(part) for part in parts):
        raise ValueError(f"{data[:80]!r} is no name of a constant")
    return str(data)


def _count(data: Any) -> int:
    if type(data) is not int or not 0 <= data < 1 << 62:
        raise ValueError(f"{str(data)[:80]!r} is no bound of a size")
    return data


def _shown(value: Any) -> str:
    if isinstance(value, dict) and "shape" in value:
        return f"{value.get('dtype')} of the shape {str(value['shape'])[:200]}"
    return str(value)[:200]
