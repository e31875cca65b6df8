"""Which layers can be trained on the device, and why others cannot: the linear layer that gives the scores of classes.

%acc = fxq.linear(%x, weight, bias); %y = fxq.requantize(%acc); return softmax(%y)   =>   the layer of %acc
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, fx

from fxquant.arguments import argument, int_arg, node_arg
from fxquant.errors import TrainingError
from fxquant.graph import constant_value, is_unpacked, outputs, shape
from fxquant.names import find, label_of, names_of
from fxquant.plan import required_range
from fxquant.qparams import QParams
from fxquant.source import describe

aten, fxq = torch.ops.aten, torch.ops.fxq

# A table of powers has an entry for every code of the scores.
MOST_SCORES = 1 << 12


@dataclass(frozen=True)
class TrainedLayer:
    """A linear layer, and whether its weights and its bias are trained."""

    accumulators: fx.Node
    rounding: fx.Node
    weight: bool
    bias: bool

    @property
    def name(self) -> str:
        """As in the model."""
        return label_of(self.accumulators)

    @property
    def operand(self) -> fx.Node:
        """What it multiplies."""
        return node_arg(self.accumulators, "x")

    @property
    def operand_scale(self) -> float:
        """Of one code of the operand."""
        return required_range(self.operand).qparams.one_scale

    @property
    def weight_qparams(self) -> QParams:
        """Of its weights, per output channel or one."""
        found = self.accumulators.meta["fxq.weight_qparams"]
        assert isinstance(found, QParams)
        return found

    @property
    def weight_scale(self) -> Tensor:
        """Float64, one for each output channel."""
        scale = torch.tensor(self.weight_qparams.scale, dtype=torch.float64)
        return scale.expand(self.channels).contiguous()

    @property
    def channels(self) -> int:
        """Outputs, which are the classes."""
        return int(shape(self.accumulators)[-1])


def trained_layer(module: fx.GraphModule, names: Sequence[str]) -> TrainedLayer:
    """The layer that `names` name: it, its `.weight` or its `.bias`.

    Raises TrainingError for any other layer with what to do about it, UnknownNameError for no layer at all.
    """
    if not names:
        raise TrainingError("nothing is to be trained: name the last linear layer, or its bias ('classifier.bias')")
    ends = _scores(module)
    rounding = next((end for end in ends if _parts(end, names[0])), ends[-1])
    accumulators = node_arg(rounding, "x")
    parts: set[str] = set()
    for name in names:
        if not (found := _parts(rounding, name)):
            _refuse(module, name, label_of(accumulators))
        parts |= found
    layer = TrainedLayer(accumulators, rounding, "weight" in parts, "bias" in parts)
    _require_trainable(module, layer, names)
    return layer


def _parts(rounding: fx.Node, name: str) -> set[str]:
    """What `name` means of the layer that ends so: its weight, its bias, both; nothing for the name of another one."""
    mine = {label_of(rounding), *(n for node in (rounding, node_arg(rounding, "x")) for n in names_of(node))}
    owner, _, part = name.rpartition(".")
    if name in mine:
        return {"weight", "bias"}
    return {part} & {"weight", "bias"} if owner in mine else set()


def _scores(module: fx.GraphModule) -> list[fx.Node]:
    """The rounded results of linear layers whose softmax is an output, or could be taken of it."""
    ends, found = [], []
    for node in outputs(module.graph):
        scores = node
        while (before := _before(scores)) is not None:
            scores = before
        if scores.target is fxq.requantize.default and node_arg(scores, "x").target is fxq.linear.default:
            found.append(scores)
        ends.append(describe(scores))
    if found:
        return found
    raise TrainingError(
        "only a classifier is trained on the device, whose scores a linear layer gives, and no output is such: "
        f"{'; '.join(ends)}. End the model in nn.Linear (a softmax or its logarithm may follow)"
    )


def _before(node: fx.Node) -> fx.Node | None:
    """What a softmax, its logarithm, or a requantize of one is made of."""
    if node.target is fxq.softmax.default:
        return node_arg(node, "x")
    if node.target is fxq.requantize.default and node_arg(node, "x").target is fxq.softmax.default:
        return node_arg(node, "x")
    if node.target is fxq.add.default and node_arg(node, "b").target is fxq.log_sum.default:
        return node_arg(node, "a")
    return None


def _refuse(module: fx.GraphModule, name: str, last: str) -> None:
    try:
        node = find(module, name)
    except KeyError:
        owner, _, part = name.rpartition(".")
        if part not in ("weight", "bias"):
            raise
        node = find(module, owner)
    product = node_arg(node, 0) if node.target is fxq.requantize.default else node
    if product.target is fxq.linear.default:
        why = f"it is a linear layer, but not the last one, which is {last!r}"
    elif product.target in (fxq.conv.default, fxq.conv_transpose.default):
        why = "it is a convolution, whose gradient takes the memory of all activations"
    else:
        why = "it has no weights of a linear layer"
    raise TrainingError(
        f"{describe(node)} cannot be trained on the device: {why}; train {last!r} or '{last}.bias' there, and all else "
        "before the export (fxquant.prepare_qat)"
    )


def _require_trainable(module: fx.GraphModule, layer: TrainedLayer, names: Sequence[str]) -> None:
    """Raise TrainingError for a layer whose numbers cannot be updated."""
    node, weight = layer.accumulators, node_arg(layer.accumulators, "weight")
    scores = required_range(layer.rounding).qparams
    problem = ""
    if is_unpacked(weight) and layer.weight:
        problem = "its weights are packed, several in a byte: give it 8 bits by a rule of the recipe, or train its bias"
    elif len(shape(layer.operand)) != 2:
        problem = f"it is computed for several rows of a sample, {tuple(shape(layer.operand))}: give it one"
    elif int_arg(node, "drop"):
        problem = "its sums need more than 32 bits: give its operand 8 bits by a rule of the recipe"
    elif scores.qmax - scores.qmin >= MOST_SCORES:
        problem = "its result has 16 bits: give it 8 by a rule of the recipe"
    elif layer.bias and not layer.weight and argument(node, "bias") is None:
        problem = "it has no bias: train its weight"
    elif layer.weight and _is_shared(weight):
        problem = "other layers have the same weights: untie them before they are traced"
    elif layer.weight and not _holds(module, layer):
        problem = "sums of its weights could leave 32 bits once they are trained: make its operand narrower"
    if problem:
        raise TrainingError(f"{describe(node)} cannot be trained on the device ({', '.join(names)}): {problem}")


def _is_shared(weight: fx.Node) -> bool:
    same = [n for n in weight.graph.nodes if n.op == "get_attr" and n.target == weight.target]
    return sum(len(n.users) for n in same) > 1


def _holds(module: fx.GraphModule, layer: TrainedLayer) -> bool:
    """Whether no sum of any weights leaves 32 bits."""
    x, q = required_range(layer.operand).qparams, layer.weight_qparams
    farthest = max(x.qmax - x.one_zero_point, x.one_zero_point - x.qmin)
    features = int(constant_value(module, node_arg(layer.accumulators, "weight")).shape[1])
    return features * farthest * max(q.qmax, -q.qmin) < 1 << 31
