"""One name per layer, from the FLOAT graph to the compiled report.

`trace` gives every operation its name, once (`give`):

    layer1.0.conv2       all that a call of that module computes: the module's path
    layer1.0.relu@1      the same in the second call of the module
    layer1.0:add         one of several operations in a call of the module: path, colon, operator
    add_1                an operation outside of all modules but the model: the exported graph's own name

The name is `meta["fxq.name"]`, one of its kind in the graph, and every pass carries it on. What belongs to a layer is
named after it (`conv1:quantize`); operations that are computed at once have the name of the first of them, and
`meta["fxq.layers"]` lists all. `find` takes any of these, the names of outputs, and ids of graph nodes.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from difflib import get_close_matches
from itertools import accumulate
from typing import Protocol, TypeVar

from torch import Tensor, fx

from fxquant.errors import UnknownNameError
from fxquant.source import module_path, name_of, target_name

NAME, LAYERS, OUTPUTS, GONE = "fxq.name", "fxq.layers", "fxq.outputs", "fxq.gone"

# Sums before they are rounded.
ACCUMULATORS = ":accumulators"

# These only spell a value in another way: they have the name of what they convert, and what they are.
_CONVERSIONS = ("fxq.quantize", "fxq.dequantize", "fxq.dynamic_scale", "fxq.scale_product")


@dataclass(frozen=True)
class Layer:
    """An operation of the FLOAT graph: its name, and the id that its node had there."""

    name: str
    id: str


def give(module: fx.GraphModule, outputs: Sequence[str]) -> None:
    """Name the operations of a FLOAT graph that has just been traced, and its outputs."""
    module.meta[OUTPUTS] = _distinct(outputs)
    nodes = [node for node in module.graph.nodes if node.op in ("placeholder", "call_function")]
    whole = _whole_modules([node for node in nodes if _gives_tensors(node) and not _is_part(node)])
    taken: set[str] = set()
    # Paths before what is made up, so that a functional `add` cannot take the name of a module called so.
    for node in sorted(nodes, key=lambda node: _rank(node, whole)):
        node.meta[NAME] = _free(_wanted(node, whole), taken)
        if _gives_tensors(node):
            node.meta[LAYERS] = (Layer(name_of(node), node.name),)
    settle(module.graph)


def _rank(node: fx.Node, whole: frozenset[fx.Node]) -> int:
    """Inputs first, then whole modules, other operations, and parts of results, which are named after these."""
    if node.op == "placeholder" or _is_part(node):
        return 0 if node.op == "placeholder" else 3
    return 1 if node in whole else 2


def _wanted(node: fx.Node, whole: frozenset[fx.Node]) -> str:
    if node.op == "placeholder":
        return str(node.target)
    if _is_part(node):
        return f"{name_of(node.all_input_nodes[0])}:{node.args[1]}"
    path, call = _place(node)
    if node in whole:
        return path + call
    return f"{path}{call}:{_operator(node)}" if path else node.name


def _whole_modules(operations: list[fx.Node]) -> frozenset[fx.Node]:
    """Operations that are all that a call of their module computes."""
    counted = Counter(map(_place, operations))
    outer = {"", *(part for path, _ in counted for part in _around(path))}
    return frozenset(node for node in operations if counted[_place(node)] == 1 and _place(node)[0] not in outer)


def _around(path: str) -> list[str]:
    """'a.b.c' lies in 'a.b' and in 'a'."""
    return list(accumulate(path.split(".")[:-1], "{}.{}".format))


def _place(node: fx.Node) -> tuple[str, str]:
    """The module that calls the operation, and which of its calls this is: "" for the first, then "@1", "@2"."""
    stack = node.meta.get("nn_module_stack") or {"": None}
    again = re.search(r"@\d+$", str(list(stack)[-1]))
    return module_path(node), again[0] if again else ""


def _is_part(node: fx.Node) -> bool:
    """Whether the node only picks one of several results."""
    return getattr(node.target, "__name__", "") == "getitem" and len(node.all_input_nodes) == 1


def _gives_tensors(node: fx.Node) -> bool:
    value = node.meta.get("val")
    return any(isinstance(v, Tensor) for v in (value if isinstance(value, (list, tuple)) else [value]))


def _operator(node: fx.Node) -> str:
    """'conv2d', 'requantize': the operation's name without library and overload."""
    if node.op == "call_method":
        return str(node.target)
    if node.op != "call_function":
        return "observe" if node.op == "call_module" else node.op
    return target_name(node).removeprefix("aten.").removeprefix("fxq.").partition(".")[0]


def is_conversion(node: fx.Node) -> bool:
    """Whether the node only spells another value differently: an observer, quantize, dequantize."""
    return node.op == "call_module" or str(node.target).startswith(_CONVERSIONS)


def layer_of(node: fx.Node) -> str:
    """The name of the layer that the node belongs to: its own, or that of the value which it converts."""
    return name_of(node).rpartition(":")[0] or name_of(node) if is_conversion(node) else label_of(node)


def label_of(node: fx.Node) -> str:
    """What a step that computes the node is called: accumulators and their rounding are one step."""
    return name_of(node).removesuffix(ACCUMULATORS)


def belong(node: fx.Node, name: str, role: str = "") -> None:
    """Name the node as a part of the layer `name`: 'conv1:quantize'."""
    node.meta[NAME] = f"{name}{role or f':{_operator(node)}'}"


def inherit_name(node: fx.Node, origin: fx.Node) -> None:
    """Name a new node after the one that it stands for or converts; one that has a name keeps it."""
    if NAME in node.meta or NAME not in origin.meta or node.op == "get_attr":
        return
    if is_conversion(node):
        belong(node, layer_of(origin))
        return
    node.meta[NAME] = layer_of(origin)
    if LAYERS in origin.meta and not is_conversion(origin):
        node.meta[LAYERS] = origin.meta[LAYERS]


def name_added(node: fx.Node) -> None:
    """Name an operation that a pass adds to the model as `trace` would have: 'block:clamp', or its id."""
    path, call = _place(node)
    taken = {name_of(other) for other in node.graph.nodes if NAME in other.meta}
    node.meta[NAME] = _free(f"{path}{call}:{_operator(node)}" if path else node.name, taken)
    node.meta[LAYERS] = (Layer(name_of(node), node.name),)


def absorb_layers(node: fx.Node, *others: fx.Node) -> None:
    """Note that `node` now also computes what `others` did, which are about to be dropped."""
    layers = (*node.meta.get(LAYERS, ()), *(layer for other in others for layer in other.meta.get(LAYERS, ())))
    if layers and node.op != "get_attr":
        node.meta[LAYERS] = tuple(dict.fromkeys(layers))


def settle(graph: fx.Graph) -> None:
    """Make names unique: of several nodes of a layer the last has its plain name, others also say what they are.

    A node without a name gets its id, or the next one that is free.
    """
    named: dict[str, list[fx.Node]] = {}
    nodes = [node for node in graph.nodes if node.op != "get_attr"]
    for node in nodes:
        if NAME in node.meta:
            named.setdefault(name_of(node), []).append(node)
    taken = set(named)
    for name, group in named.items():
        owner = _owner(group)
        for node in group:
            if node is not owner:
                node.meta[NAME] = _free(name if is_conversion(node) else f"{name}:{_operator(node)}", taken)
                if LAYERS in node.meta:
                    node.meta[LAYERS] = (Layer(name_of(node), node.name),)
    for node in nodes:
        if NAME not in node.meta:
            node.meta[NAME] = _free(node.name, taken)


def _owner(group: list[fx.Node]) -> fx.Node:
    inputs = [node for node in group if node.op == "placeholder"]
    own = [node for node in group if not is_conversion(node)]
    return (inputs or own[::-1] or group)[0]


def _free(name: str, taken: set[str]) -> str:
    """`name`, or with the first number that makes it another one than all `taken`, of which it becomes one."""
    found, count = name, 0
    while found in taken:
        count += 1
        found = f"{name}_{count}"
    taken.add(found)
    return found


def _distinct(names: Iterable[str]) -> tuple[str, ...]:
    taken: set[str] = set()
    return tuple(_free(name, taken) for name in names)


def layers_of(node: fx.Node) -> tuple[str, ...]:
    """Names of the FLOAT operations that the node computes, in order."""
    return tuple(layer.name for layer in node.meta.get(LAYERS, ()))


def aliases_of(node: fx.Node) -> tuple[str, ...]:
    """Ids by which the node is found as well: its own, and those that its operations had in the FLOAT graph."""
    return tuple(dict.fromkeys([*(layer.id for layer in node.meta.get(LAYERS, ())), node.name]))


def names_of(node: fx.Node) -> tuple[str, ...]:
    """Everything that the node answers to."""
    return (name_of(node), *layers_of(node), *aliases_of(node))


def lost(before: frozenset[Layer], module: fx.GraphModule, doer: str) -> None:
    """Note which of the layers `before` a pass left none of: constants that it computed, or what nobody read."""
    gone = {name: doer for layer in before - all_layers(module.graph) for name in (layer.name, layer.id)}
    if gone:
        module.meta[GONE] = {**gone, **module.meta.get(GONE, {})}


def all_layers(graph: fx.Graph) -> frozenset[Layer]:
    """The FLOAT operations that the graph computes."""
    return frozenset(layer for node in graph.nodes for layer in node.meta.get(LAYERS, ()))


def output_names(module: fx.GraphModule) -> tuple[str, ...]:
    """The outputs' names, in order: 'output', 'output_0', or the keys of what the model returns."""
    returned = module.graph.output_node().args[0]
    count = len(returned) if isinstance(returned, (list, tuple)) else 1
    found = module.meta.get(OUTPUTS, ())
    return tuple(found) if len(found) == count else by_position(count)


def by_position(count: int) -> tuple[str, ...]:
    """Names of outputs of which nothing but their order is known."""
    return ("output",) if count == 1 else tuple(f"output_{number}" for number in range(count))


def find(module: fx.GraphModule, name: str) -> fx.Node:
    """The node called `name`: by its own name, an output's, a FLOAT operation's that it computes, or an id.

    Raises UnknownNameError for no such name with the nearest ones, and for one that a pass left no value of.
    """
    tables = _tables(module)
    for table in tables:
        if name in table:
            return table[name]
    gone = module.meta.get(GONE, {})
    if name in gone:
        raise UnknownNameError(
            f"{name!r} is no value of this graph any more: {gone[name]} took it out (a constant, computed when the "
            "graph was made, or what no output needs)"
        )
    known = [other.removesuffix(ACCUMULATORS) for other in (*tables[0], *tables[2])]
    raise UnknownNameError(f"no value called {name!r} in this graph{did_you_mean(name, known)}")


def _tables(module: fx.GraphModule) -> tuple[dict[str, fx.Node], ...]:
    nodes = [node for node in module.graph.nodes if node.op not in ("get_attr", "output")]
    returned = module.graph.output_node().args[0]
    several = returned if isinstance(returned, (list, tuple)) else [returned]
    ports = zip(output_names(module), several, strict=True)
    return (
        {name_of(node): node for node in nodes},
        {name: node for name, node in ports if isinstance(node, fx.Node)},
        # Of accumulators and their rounding the latter, which comes later.
        {name: node for node in nodes for name in layers_of(node)},
        {name: node for node in nodes for name in aliases_of(node)},
    )


class Named(Protocol):
    """A record of a table, with its name and the ids by which it is found as well."""

    @property
    def name(self) -> str:
        """The layer's name."""

    @property
    def aliases(self) -> tuple[str, ...]:
        """Ids of nodes."""


Record = TypeVar("Record", bound=Named)


def named(name: str, records: Sequence[Record], layers: Callable[[Record], Sequence[str]]) -> Record:
    """The record called `name`, else the last one that computes this layer, else that has this id.

    Raises UnknownNameError with the nearest names.
    """
    for names in (lambda one: (one.name,), layers, lambda one: one.aliases):
        for record in reversed(records):
            if name in names(record):
                return record
    known = [name for record in records for name in (record.name, *layers(record))]
    raise UnknownNameError(f"no layer called {name!r} here{did_you_mean(name, known)}")


def did_you_mean(name: str, known: Iterable[str]) -> str:
    """'; did you mean a, b?' with what is within `name`, else what is spelled nearly so; '' for nothing near."""
    every = list(dict.fromkeys(known))
    within = [other for other in every if other.startswith((f"{name}:", f"{name}."))]
    close = [*within, *get_close_matches(name, every, 3)][:3]
    return f"; did you mean {', '.join(dict.fromkeys(close))}?" if close else ""
