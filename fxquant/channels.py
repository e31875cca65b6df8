"""Which channels of a FLOAT graph belong together: what cannot be removed but as one.

Every value gets a label for each of its elements: the channel that it is of. Operators that move values move labels by
themselves, so that splits, shuffles, concatenations and flattened images need no rules; what combines values ties the
labels that meet; a product gives new ones, and its weights have a row or a column for each. What mixes channels keeps
all that it reads, and the reason is kept with them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor, fx

from fxquant.arguments import argument
from fxquant.graph import constant_value, outputs, sample_shape, size
from fxquant.ops.table import Channels, lookup
from fxquant.source import name_of, target_name

aten = torch.ops.aten

# Norms are folded before the op table is asked: they have no record there.
_NORMS = (aten.batch_norm.default,)
# Elements of a constant that is followed one by one; a table of positions is smaller.
_MOST_ELEMENTS = 1 << 16
# The sizes that these calls are given, and the only other moves whose arguments name places of an axis.
SIZED = (aten.reshape.default, aten.view.default, aten._unsafe_view.default, aten.expand.default)
_PLACED = (aten.select.int, aten.index_select.default)


@dataclass(frozen=True)
class Layer:
    """A product: labels of its results (rows) and of its operand (columns), and the weight's axes of both."""

    node: fx.Node
    weight: str
    bias: str | None
    rows: Tensor
    columns: Tensor


@dataclass
class Following:
    """Labels of all values of a graph. `kept` maps a group to the reason why it stays; see `follow`."""

    labels: dict[fx.Node, Tensor] = field(default_factory=dict)
    axes: dict[str, list[tuple[int, Tensor]]] = field(default_factory=dict)
    layers: list[Layer] = field(default_factory=list)
    kept: dict[int, str] = field(default_factory=dict)
    roots: Tensor = field(default_factory=lambda: torch.zeros(1, dtype=torch.long))

    def removed(self, labels: Tensor, groups: Iterable[int]) -> Tensor:
        """Which elements go where `groups` do."""
        return torch.isin(self.roots[labels], torch.tensor(sorted(groups), dtype=torch.long))

    def keeps(self, labels: Tensor, groups: Iterable[int], axis: int) -> Tensor:
        """The indices of an axis that stay: those with any element that does."""
        others = [a for a in range(labels.ndim) if a != axis % labels.ndim]
        gone = self.removed(_compact(labels), groups)
        gone = gone.amin(others, keepdim=True).flatten() if others else gone
        return torch.nonzero(~gone.expand(labels.shape[axis]))[:, 0]


def follow(module: fx.GraphModule) -> Following:
    """Follow the channels of a FLOAT graph without composite operators (see the pass Decompose)."""
    return _Follower(module).run()


def _compact(labels: Tensor) -> Tensor:
    """One index of each axis along which labels are stored once."""
    for axis, stride in enumerate(labels.stride()):
        if stride == 0 and labels.shape[axis] > 1:
            labels = labels.narrow(axis, 0, 1)
    return labels


def varying(labels: Tensor) -> list[int]:
    """The axes along which labels differ."""
    few = _compact(labels)
    return [a for a in range(few.ndim) if few.shape[a] > 1 and not bool((few == few.narrow(a, 0, 1)).all())]


def _condense(labels: Tensor) -> Tensor:
    """The same labels, stored once along the axes along which they are the same."""
    axes, few = varying(labels), _compact(labels)
    for axis in range(few.ndim):
        few = few if axis in axes else few.narrow(axis, 0, 1)
    return few.expand(labels.shape)


class _Follower:
    def __init__(self, module: fx.GraphModule) -> None:
        self.module = module
        self.found = Following()
        self.parent = [0]
        self.reasons: list[tuple[Tensor, str]] = [(torch.zeros(1, dtype=torch.long), "it is padding")]

    def run(self) -> Following:
        for node in self.module.graph.nodes:
            value = node.meta.get("val")
            if node.op == "placeholder" and isinstance(value, Tensor):
                self._keep_result(node, "it is an input of the model")
            elif node.op == "call_function":
                self._call(node)
        for node in outputs(self.module.graph):
            self._keep(node, "it is an output of the model")
        self.found.roots = torch.tensor([self._root(label) for label in range(len(self.parent))])
        for labels, reason in self.reasons:
            for root in self.found.roots[labels].tolist():
                self.found.kept.setdefault(root, reason)
        return self.found

    def _call(self, node: fx.Node) -> None:
        record = lookup(node)
        rule = Channels.EACH if node.target in _NORMS else record.follows if record else Channels.MIXED
        rules: dict[Channels, Callable[[fx.Node], str | None]] = {
            Channels.ALIKE: self._alike,
            Channels.EACH: self._each,
            Channels.MOVED: self._moved,
            Channels.WITHIN: self._within,
            Channels.WEIGHTED: self._weighted,
        }
        follows = rules.get(rule)
        reason = "it mixes channels, or nobody says that it does not" if follows is None else follows(node)
        if reason is not None:
            self._mix(node, f"{name_of(node)} ({target_name(node)}) reads it: {reason}")

    def _mix(self, node: fx.Node, reason: str) -> None:
        for operand in node.all_input_nodes:
            self._keep(operand, reason)
        if isinstance(node.meta.get("val"), Tensor):
            self._keep_result(node, f"{name_of(node)} ({target_name(node)}) gives it")

    def _keep(self, node: fx.Node, reason: str) -> None:
        if node in self.found.labels or node.op == "get_attr":
            if node.op == "get_attr" and (old := self.found.axes.get(str(node.target))):
                self.reasons.extend((labels, reason) for _, labels in old)
            if node in self.found.labels:
                self.reasons.append((_compact(self.found.labels[node]).flatten(), reason))

    def _keep_result(self, node: fx.Node, reason: str) -> None:
        label = self._new(1)
        self.reasons.append((label, reason))
        self.found.labels[node] = label.reshape([1] * node.meta["val"].ndim).expand(sample_shape(node.meta["val"]))

    def _new(self, count: int) -> Tensor:
        first = len(self.parent)
        self.parent.extend(range(first, first + count))
        return torch.arange(first, first + count)

    def _root(self, label: int) -> int:
        while self.parent[label] != label:
            self.parent[label] = self.parent[self.parent[label]]
            label = self.parent[label]
        return label

    def _tie(self, a: Tensor, b: Tensor) -> None:
        left, right = _compact(a), _compact(b)
        pairs = set(zip((left + 0 * right).flatten().tolist(), (right + 0 * left).flatten().tolist(), strict=True))
        for one, other in pairs:
            low, high = sorted((self._root(one), self._root(other)))
            self.parent[high] = low

    def _labels(self, node: Any) -> Tensor | None:
        """Labels of an operand; a constant's are new at its first use, one for each element."""
        if not isinstance(node, fx.Node):
            return None
        if node in self.found.labels or node.op != "get_attr":
            return self.found.labels.get(node)
        value = constant_value(self.module, node)
        if value.numel() > _MOST_ELEMENTS:
            self._keep_result(node, f"{node.target} is a constant of {value.numel()} numbers")
        else:
            self.found.labels[node] = self._new(value.numel()).reshape(value.shape)
            axes = [axis for axis in range(value.ndim) if value.shape[axis] > 1]
            if len(axes) == 1:
                self._slice(str(node.target), axes[0], self.found.labels[node].flatten())
            elif axes:
                self.reasons.append((self.found.labels[node].flatten(), f"{node.target} has several axes"))
        return self.found.labels[node]

    def _slice(self, constant: str, axis: int, labels: Tensor) -> None:
        """An axis of a constant goes by labels; where it is used once more, by both."""
        for other, old in self.found.axes.setdefault(constant, []):
            if other == axis:
                self._tie(old, labels)
        self.found.axes[constant].append((axis, labels))

    def _alike(self, node: fx.Node) -> str | None:
        shape = sample_shape(node.meta["val"])
        tied: list[Tensor] = []
        operands = [self._labels(a) for a in node.all_input_nodes]
        several = [x for x in operands if x is not None and x.numel() > 1] or [x for x in operands if x is not None]
        full = [x for x in several if x.ndim == len(shape)]
        for labels in several:
            spread = [a for a in range(-labels.ndim, 0) if labels.shape[a] == 1 and shape[a] > 1]
            if any(a + len(shape) in varying(other) for other in full for a in spread):
                self.reasons.append((_compact(labels).flatten(), f"{name_of(node)} spreads it over other channels"))
            else:
                tied.append(labels.expand(shape))
        if not tied:
            return "it spreads its operands"
        for other in tied[1:]:
            self._tie(tied[0], other)
        self.found.labels[node] = tied[0]
        return None

    def _each(self, node: fx.Node) -> str | None:
        labels = self._labels(node.args[0])
        if labels is None or labels.ndim < 2 or varying(labels) not in ([1], []):
            return "its channels are no axis of their own"
        for constant in node.args[1:]:
            parameter = self._labels(constant) if isinstance(constant, fx.Node) else None
            if parameter is not None and parameter.numel() == labels.shape[1] > 1:
                self._tie(labels, parameter.reshape(-1, *[1] * (labels.ndim - 2)))
        self.found.labels[node] = labels
        return None

    def _moved(self, node: fx.Node) -> str | None:
        def label(operand: fx.Node) -> Any:
            value = operand.meta["val"]
            return self._labels(operand) if isinstance(value, Tensor) and value.is_floating_point() else _plain(operand)

        args: Any = fx.node.map_arg(node.args, label)
        before = [x for x in (args[0] if isinstance(args[0], (list, tuple)) else [args[0]])]
        if any(x is None for x in before):
            return "its operands are no values that are followed"
        if reason := _unmovable(node, before[0]):
            return reason
        labels = _condense(node.target(*args, **node.kwargs))  # type: ignore[operator]
        axes = varying(labels)
        if len(axes) > 1:  # as much as is removed of one row must be removed of all
            longest = max(axes, key=lambda a: int(labels.shape[a]))
            rows = labels.movedim(longest, 0).flatten(1)
            self._tie(rows[:, :1], rows)
        sizes = argument(node, 1) if node.target in SIZED else ()
        if any(isinstance(sizes[a], fx.Node) for a in axes if sizes):
            return "the batch and the channels share an axis"
        self.found.labels[node] = labels
        return None

    def _within(self, node: fx.Node) -> str | None:
        labels = self._labels(node.args[0])
        names = [a.name for a in node.target._schema.arguments]  # type: ignore[union-attr]
        if labels is None:
            return "its operand is no value that is followed"
        dims = argument(node, "dim") if "dim" in names else list(range(2, labels.ndim))
        axes = {d % labels.ndim for d in ([dims] if isinstance(dims, int) else dims or range(labels.ndim))}
        if axes & set(varying(labels)):
            return "it goes over channels"
        if "dim" in names:
            self.found.labels[node] = _condense(labels.amin(sorted(axes), keepdim=bool(argument(node, "keepdim"))))
            return None
        for axis in axes:
            labels = labels.narrow(axis, 0, 1)
        self.found.labels[node] = labels.expand(sample_shape(node.meta["val"]))
        return None

    def _weighted(self, node: fx.Node) -> str | None:
        labels, weight, bias = self._labels(node.args[0]), argument(node, "weight"), argument(node, "bias")
        if labels is None or not isinstance(weight, fx.Node) or weight.op != "get_attr":
            return "its weight is no constant"
        is_linear = node.target is aten.linear.default
        shape, across = constant_value(self.module, weight).shape, -1 if is_linear else 1
        if labels.ndim < 2 or (not is_linear and labels.ndim != len(shape)):
            return "it has no batch"
        axis = across % labels.ndim
        if set(varying(labels)) - {axis}:
            return "its channels are no axis of their own"
        is_transposed = "transpose" in str(node.target)
        groups = 1 if is_linear else int(argument(node, "groups"))
        if is_transposed and groups > 1:
            return "transposed convolutions in groups are not followed"
        columns = _along(labels, axis)
        rows = self._new(shape[1] if is_transposed else shape[0])
        if groups > 1:
            columns = self._grouped(rows, columns, groups)
        where = (1, 0) if is_transposed else (0, 1)
        self._slice(str(weight.target), where[0], rows)
        if columns.numel():
            self._slice(str(weight.target), where[1], columns)
        if isinstance(bias, fx.Node) and bias.op == "get_attr":
            self._slice(str(bias.target), 0, rows)
        view = [1] * labels.ndim
        view[axis] = -1
        self.found.labels[node] = rows.reshape(view).expand(sample_shape(node.meta["val"]))
        named = str(bias.target) if isinstance(bias, fx.Node) else None
        self.found.layers.append(Layer(node, str(weight.target), named, rows, _along(labels, axis)))
        return None

    def _grouped(self, rows: Tensor, columns: Tensor, groups: int) -> Tensor:
        """Depthwise: results go with their operands. Otherwise each group loses the same places. Weight's columns."""
        if len(columns) == groups:
            self._tie(rows.reshape(groups, -1), columns.reshape(groups, 1))
            return columns[:0]
        for labels in (rows, columns):
            places = labels.reshape(groups, -1)
            self._tie(places[:1], places)
        return columns.reshape(groups, -1)[0]


def _plain(operand: fx.Node) -> Any:
    value = operand.meta["val"]
    return size(value) if isinstance(value, (int, torch.SymInt)) else value


def _along(labels: Tensor, axis: int) -> Tensor:
    """The labels of an axis, the others having but one."""
    return labels.movedim(axis, 0).flatten(1)[:, 0] if labels.numel() else labels.flatten()


def _unmovable(node: fx.Node, labels: Tensor) -> str | None:
    """Why a move cannot be said again of fewer channels."""
    if node.target is aten.slice.Tensor and int(argument(node, "step")) == 1:
        return None
    if node.target in (*_PLACED, aten.slice.Tensor) and int(argument(node, "dim")) % labels.ndim in varying(labels):
        return "it picks channels by their places"
    return None
