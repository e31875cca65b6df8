"""Take a trained graph back to the road: steps become pairs of the scales that they have come to, weights integers.

%x_step = step[x_step](%x)             =>   %x_q = quantize(%x, s, z); %x_dq = dequantize(%x_q, s, z)
%w_step = step[w](%w)                  =>   %w_q = get_attr s8; %w_dq = dequantize_channels(%w_q, %s)
%w = fold_weight(%v, %gamma, ...)      =>   %w = get_attr, computed; the norm behind the layer is gone
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from fxquant.arguments import argument, node_arg
from fxquant.errors import TrainingError
from fxquant.graph import FxquantGraph, add_constant, calls, clean, compute, constant_value
from fxquant.kept import Kept
from fxquant.passes.insert_qdq import add_pair, replace_weight
from fxquant.passmanager import Pass
from fxquant.plan import record, required_range
from fxquant.source import describe, name_of
from fxquant.stage import Stage
from fxquant.training import FOLDS, LiveNorm, Step, WeightStep, fold_bias, mask_weight
from fxquant.training.exact import refresh


@dataclass(frozen=True)
class FoldSteps(Pass):
    """Take a trained graph back to the road, with the scales and weights that it has come to."""

    needs: ClassVar[Stage] = Stage.TRAINING
    gives: ClassVar[Stage] = Stage.QUANTIZED

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: norms. Case 2: weights. Case 3: values. Nothing may be lost, and nothing still moving."""
        module.cpu()
        _require_frozen(module)
        _require_numbers(module)
        refresh(module)
        with torch.no_grad():
            for node in calls(module.graph, *FOLDS, mask_weight):
                _fold(module, node)
        for node in list(module.graph.find_nodes(op="call_module")):
            _replace(module, node, module.get_submodule(str(node.target)))
            module.graph.erase_node(node)
        _require_fits(module)
        for node in module.graph.find_nodes(op="get_attr"):
            _make_constant(module, str(node.target))
        made = FxquantGraph(module, module.graph)
        made.meta = {key: value for key, value in module.meta.items() if key != "fxq.exact"}
        return clean(made)


def _fold(module: fx.GraphModule, node: fx.Node) -> None:
    value = compute(node, lambda operand: constant_value(module, operand))
    role = "bias" if node.target is fold_bias else "weight"
    with module.graph.inserting_before(node):
        layer = next((user for user in node.users if user.op == "call_function"), node)
        made = add_constant(module, value, f"{layer.name}_{role}")
    node.replace_all_uses_with(made)
    module.graph.erase_node(node)


def _replace(module: fx.GraphModule, node: fx.Node, part: nn.Module) -> None:
    source = node_arg(node, 0)
    if isinstance(part, Step):
        with module.graph.inserting_before(node):
            node.replace_all_uses_with(add_pair(module.graph, source, required_range(node)))
    elif isinstance(part, WeightStep):
        (layer,) = node.users
        bias, weight = argument(layer, "bias"), constant_value(module, source).float()
        qparams = part.qparams(layer, weight, None if bias is None else constant_value(module, bias))
        replace_weight(module, layer, Kept(str(source.target), weight), qparams, source.name)
    else:
        node.replace_all_uses_with(source)


def _require_frozen(module: nn.Module) -> None:
    live = [name for name, part in module.named_modules() if isinstance(part, LiveNorm) and part.live]
    if live:
        raise TrainingError(
            f"{len(live)} batch norms still go by the statistics of each batch ({live[0]} is the first), and deployed "
            "they cannot: call fxq.freeze_norms(model), train a little longer, then convert"
        )


def _require_numbers(module: nn.Module) -> None:
    for name, value in [*module.named_parameters(), *module.named_buffers()]:
        if lost := int((~value.isfinite()).sum()) if value.is_floating_point() else 0:
            raise TrainingError(
                f"{lost} of {value.numel()} values of {name} are nan or infinite: training has lost them; go back to "
                "an earlier checkpoint, with a smaller learning rate"
            )


def _require_fits(module: fx.GraphModule) -> None:
    """Training may have moved a value to where an operator has no integers for it any more."""
    for node in module.graph.nodes:
        rule = record(node)
        reason = rule.misfits(module, node) if rule is not None else None
        if reason is not None:
            raise TrainingError(
                f"training has moved {describe(node)} to where it has no integers: {reason}; leave it in float by the "
                f"recipe (a rule for {name_of(node)!r}), or train with a smaller learning rate"
            )


def _make_constant(module: nn.Module, path: str) -> None:
    """A parameter as the buffer that it is in graphs that are not trained."""
    owner_path, _, leaf = path.rpartition(".")
    owner = module.get_submodule(owner_path)
    value: Any = getattr(owner, leaf)
    if isinstance(value, nn.Parameter):
        delattr(owner, leaf)
        owner.register_buffer(leaf, _detached(value))


def _detached(value: Tensor) -> Tensor:
    return value.detach().clone()
