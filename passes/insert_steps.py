"""Make a graph of rounded values one that is trained: pairs become steps that are learned, weights parameters again.

    %x_q = quantize(%x, s, z); %x_dq = dequantize(%x_q, s, z)  =>  %x_step = step[x_step](%x)
    %w_q = get_attr s8; %w_dq = dequantize_channels(%w_q, %s)  =>  %w = get_attr conv.weight; %w_step = step[w](%w)

A weight that the model masks stays masked (see `fxquant.training.masks`): step[w](mask_weight(%w, %mask)).
A batch norm that FoldBatchNorm folded into the layer before it comes back as live (see `fxquant.training.norms`):

    %c = conv2d(%x, %w_dq, %b)   =>   %w = fold_weight(%v, %gamma, ...); %b = fold_bias(...)
                                      %c = conv2d(%x, step(%w), %b); %n = norm(%c, %b, ...)
"""

from __future__ import annotations

import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx, nn

from fxquant.arguments import argument, node_arg
from fxquant.errors import TrainingError
from fxquant.graph import add_constant, call, calls, clean, constant_value, inherit
from fxquant.kept import NORM, PARAMETERS, WEIGHT, Kept, KeptNorm
from fxquant.ops.table import FloatOp
from fxquant.passmanager import Pass
from fxquant.plan import is_dynamic, record, required_plan, required_range
from fxquant.source import describe
from fxquant.stage import Stage
from fxquant.training import LiveNorm, Masks, Step, WeightStep, fold_bias, fold_weight, mask_weight, training_graph

fxq = torch.ops.fxq


@dataclass(frozen=True)
class InsertSteps(Pass):
    """Make a graph of rounded values one that is trained.

    `exact` says whether training goes through the deployed integers (see `fxquant.training.TrainingGraph`); norms are
    live for `freeze_after` batches (None: until they are frozen).
    """

    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.TRAINING
    exact: bool = True
    freeze_after: int | None = None

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: weights, with their norms. Case 2: values. Case 3: what else the model had as parameters."""
        for node in module.graph.nodes:
            if is_dynamic(node):
                raise TrainingError(
                    f"{describe(node)} takes a range that is found at run time, which nothing can learn: train by a "
                    "recipe without dynamic ranges"
                )
        masks = Masks(module)
        for node in list(module.graph.nodes):
            rule = record(node)
            if rule is not None and rule.weight is not None:
                self._train_weight(module, node, rule, masks)
        masks.require_given()
        _step_values(module)
        wanted = set(module.meta.get(PARAMETERS, ()))
        for node in module.graph.find_nodes(op="get_attr"):
            if str(node.target) in wanted:
                _put(module, str(node.target), _parameter(constant_value(module, node)))
        return training_graph(clean(module), self.exact)

    def _train_weight(self, module: fx.GraphModule, node: fx.Node, rule: FloatOp, masks: Masks) -> None:
        rounded = node_arg(node, rule.weight or 0)
        kept, norm = rounded.meta[WEIGHT], node.meta.get(NORM)
        qparams, scheme = node.meta["fxq.weight_qparams"], required_plan(node).weight
        mask = masks.of(node, kept.value)
        step = WeightStep(kept.value, rule.weight_axis, scheme, torch.tensor(qparams.scale))
        with module.graph.inserting_before(node):
            if isinstance(norm, KeptNorm) and norm.into == kept.name:
                weight = self._fold(module, node, norm, mask)
            else:
                weight = _masked(module, node, _constant(module, kept, _parameter), mask)
                bias = argument(node, "bias")
                if isinstance(bias, fx.Node):
                    _put(module, str(bias.target), _parameter(constant_value(module, bias)))
            node.update_arg(rule.weight or 0, _call_module(module, f"{node.name}_weight_step", step, weight))

    def _fold(self, module: fx.GraphModule, layer: fx.Node, norm: KeptNorm, mask: Tensor | None) -> fx.Node:
        """The folded weight as a value of the graph, the folded bias, and the norm behind the layer."""
        owned = mask is not None or norm.weight.name in module.meta.get(PARAMETERS, ())
        plain = _masked(module, layer, _constant(module, norm.weight, _parameter if owned else Tensor.clone), mask)
        bias, gamma, beta = (k and _constant(module, k, _parameter) for k in (norm.bias, norm.gamma, norm.beta))
        mean, var = (_constant(module, k, Tensor.clone) for k in (norm.mean, norm.var))
        weight = call(module.graph, fold_weight, plain, gamma, var, norm.eps, norm.groups)
        shift = call(module.graph, fold_bias, bias, gamma, beta, mean, var, norm.eps)
        layer.update_arg(2, shift)
        live = LiveNorm(norm.eps, norm.momentum, self.freeze_after)
        with module.graph.inserting_after(layer):
            made = _call_module(module, f"{layer.name}_norm", live, layer, shift, bias, gamma, beta, mean, var)
        layer.replace_all_uses_with(made, delete_user_cb=lambda user: user is not made)
        return weight


def _step_values(module: fx.GraphModule) -> None:
    """One module for all values that share a range."""
    names: dict[Any, str] = {}
    for integers in calls(module.graph, fxq.quantize.default):
        source, found = node_arg(integers, 0), required_range(integers)
        key = found.of, found.qparams
        if key not in names:
            names[key] = _free(module, f"{found.of or source.name}_step")
            module.add_submodule(names[key], Step(found))
        for real in list(integers.users):
            with module.graph.inserting_before(real):
                step = module.graph.call_module(names[key], (source,))
            step.meta.update({k: v for k, v in real.meta.items() if k != "fxq.passes"})
            real.replace_all_uses_with(step)
            module.graph.erase_node(real)
        module.graph.erase_node(integers)


def _masked(module: fx.GraphModule, layer: fx.Node, weight: fx.Node, mask: Tensor | None) -> fx.Node:
    if mask is None:
        return weight
    return call(
        module.graph, mask_weight, weight, add_constant(module, mask.clone(), f"{layer.name}_mask"), like=weight
    )


def _call_module(module: fx.GraphModule, name: str, part: nn.Module, source: fx.Node, *more: Any) -> fx.Node:
    """A call of a new module, whose value is as its operand is."""
    free = _free(module, name)
    module.add_submodule(free, part)
    node = module.graph.call_module(free, (source, *more))
    node.meta["val"] = source.meta["val"]
    inherit(node, source)
    return node


def _free(module: fx.GraphModule, name: str) -> str:
    base = found = re.sub(r"\W", "_", name)
    count = 0
    while hasattr(module, found):
        count += 1
        found = f"{base}_{count}"
    return found


def _parameter(value: Tensor) -> nn.Parameter:
    return nn.Parameter(value.detach().clone())


def _constant(module: fx.GraphModule, kept: Kept, made: Callable[[Tensor], Tensor]) -> fx.Node:
    """A constant that passes had replaced, under the name that it had; one that several layers read is one."""
    _put(module, kept.name, made(kept.value))
    node = module.graph.get_attr(kept.name)
    mode = next(n.meta["val"].fake_mode for n in module.graph.nodes if hasattr(n.meta.get("val"), "fake_mode"))
    node.meta["val"] = mode.from_tensor(kept.value, static_shapes=True)
    return node


def _put(module: nn.Module, path: str, value: Tensor) -> None:
    """Have a tensor at a dotted path, as a parameter or as a buffer; a parameter that is there stays."""
    *folders, leaf = path.split(".")
    owner = module
    for folder in folders:
        if not isinstance(getattr(owner, folder, None), nn.Module):
            owner.add_module(folder, nn.Module())
        owner = getattr(owner, folder)
    if isinstance(getattr(owner, leaf, None), nn.Parameter):
        return
    if hasattr(owner, leaf):
        delattr(owner, leaf)
    if isinstance(value, nn.Parameter):
        owner.register_parameter(leaf, value)
    else:
        owner.register_buffer(leaf, value)
