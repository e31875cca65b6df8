"""Shift the biases of products so that every channel has the mean that it has in float.

    %acc = fxq.conv(%x_q, %w, %b, ...)   =>   %acc = fxq.conv(%x_q, %w, %b', ...)

With s the scale of the sums, and means over data:  b' = b + round(mean(conv2d(%x, ...)) / s - mean(%acc)).

Rounded weights move the mean of a layer's sums, and so do inputs that are clipped or rounded; the layers behind add it
up. What a channel is off by on the average is taken into its bias, in the order of the graph, each layer seeing what
the corrected ones before it give: empirical bias correction (Nagel et al. 2019, "Data-Free Quantization Through Weight
Equalization and Bias Correction", section 4.2; Finkelstein et al. 2019, "Fighting Quantization Bias With Bias").
It costs nothing at run time.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from fxquant.arguments import int_arg, node_arg
from fxquant.bounds import sum_bounds
from fxquant.errors import StageError
from fxquant.gains import Gain, decibels, note_gain, output_noise
from fxquant.graph import add_constant, calls, clean, constant_value
from fxquant.ops.fixed_point import is_narrow
from fxquant.ops.spelling import ACCUMULATOR_LIMIT
from fxquant.passmanager import Pass
from fxquant.plan import range_of
from fxquant.qparams import QParams
from fxquant.source import name_of
from fxquant.stage import Stage, stage_of
from fxquant.trials import SAMPLES, as_trials
from fxquant.walk import Walk

fxq = torch.ops.fxq

_PRODUCTS = (fxq.conv.default, fxq.conv_transpose.default, fxq.linear.default)

# Of each layer, by name: the mean of every channel over the inputs to fit to, and over those to judge by.
Means = dict[str, tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class CorrectBiases(Pass):
    """Shift the biases of products so that every channel has the mean that it has in float.

    `observed` is the OBSERVED graph that the integers were converted from, `data` inputs as for `calibrate`, or Trials;
    `samples` of them are looked at. A channel is left as it was where inputs that nothing was fitted to lose by the
    shift, and all of them are where these inputs' outputs do.
    """

    needs: ClassVar[Stage] = Stage.INTEGER
    gives: ClassVar[Stage] = Stage.INTEGER
    observed: fx.GraphModule = field(repr=False)
    data: Any = field(repr=False)
    samples: int = SAMPLES

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: a product whose operand's range is known. What finds its range at run time is left alone."""
        if stage_of(self.observed) is not Stage.OBSERVED:
            raise StageError(
                f"CorrectBiases compares with an OBSERVED graph, this one is {stage_of(self.observed)}: give it what "
                "the integers were converted from"
            )
        layers = {node: scale for node in calls(module.graph, *_PRODUCTS) if (scale := _scale(node)) is not None}
        trials = as_trials(self.observed, self.data, self.samples)
        means, wanted = _means(self.observed, trials, {str(n.meta["fxq.origin"]): n for n in layers})
        before = output_noise(wanted, _outputs(module, trials.judge))
        biases = {node: node.args[2] for node in layers}
        walk, count = Walk(module, trials.all), len(trials.fit)
        kept = 0
        for node in walk:
            found = means.get(str(node.meta["fxq.origin"])) if node in layers else None
            if found is None:
                continue
            shift = _correct(module, node, layers[node], found, walk.values[node], count)
            if bool(shift.any()):
                kept += 1
                # As running the layer again would: sums that are shifted by so much.
                walk.values[node] = [batch + _along(shift, _axis(node), batch.ndim) for batch in walk.values[node]]
        after = output_noise(wanted, [batches[count:] for batches in walk.outputs()])
        note = "" if layers else "no product with a known range occurs"
        if kept and not after < before:  # nor where it is no number
            kept, note = 0, f"undone: outputs would have {decibels(1.0, after):.1f} dB"
            for node, bias in biases.items():
                node.update_arg(2, bias)
        told = decibels(1.0, before), decibels(1.0, after if kept else before)
        note_gain(module, Gain(self.name, len(layers), kept, "outputs", *told, note))
        return clean(module)


def _scale(node: fx.Node) -> Tensor | None:
    """What a step of the accumulators stands for, float64 by channel; None where it is known at run time only."""
    found, weight = range_of(node_arg(node, 0)), node.meta.get("fxq.weight_qparams")
    if found is None or not isinstance(weight, QParams) or "fxq.origin" not in node.meta:
        return None
    scales = torch.tensor(weight.scale, dtype=torch.float64) * found.qparams.one_scale
    groups = int_arg(node, "groups") if node.target is fxq.conv_transpose.default else 1
    return scales.repeat(groups)


def _axis(node: fx.Node) -> int:
    """The axis of a product's channels."""
    return node.meta["val"].ndim - 1 if node.target is fxq.linear.default else 1


def _means(observed: fx.GraphModule, trials: Any, layers: dict[str, fx.Node]) -> tuple[Means, list[list[Tensor]]]:
    """Channels' means of all layers in float, and the outputs of the inputs to judge by."""
    walk, found, count = Walk(observed, trials.all), Means(), len(trials.fit)
    for node in walk:
        layer = layers.get(name_of(node))
        if layer is not None and node.op == "call_function" and node.meta["val"].ndim == layer.meta["val"].ndim:
            batches = walk.values[node]
            found[name_of(node)] = _mean(batches[:count], _axis(layer)), _mean(batches[count:], _axis(layer))
    return found, [batches[count:] for batches in walk.outputs()]


def _mean(batches: Sequence[Tensor], axis: int) -> Tensor:
    """The mean of each channel, float64."""
    rows = [batch.movedim(axis, 0).flatten(1) for batch in batches]
    sums = torch.stack([row.sum(1, dtype=torch.float64) for row in rows]).sum(0)
    return sums / sum(row.shape[1] for row in rows)


def _outputs(module: fx.GraphModule, batches: Sequence[Sequence[Tensor]]) -> list[list[Tensor]]:
    walk = Walk(module, batches)
    for _ in walk:
        pass
    return walk.outputs()


def _correct(
    module: fx.GraphModule,
    node: fx.Node,
    scale: Tensor,
    means: tuple[Tensor, Tensor],
    batches: Sequence[Tensor],
    count: int,
) -> Tensor:
    """Shift the bias of one layer, and say by how much; 0 for channels that are left as they were."""
    axis = _axis(node)
    fit, judge = (
        real / scale - _mean(found, axis) for real, found in zip(means, (batches[:count], batches[count:]), strict=True)
    )
    shift = torch.round(fit)
    shift = torch.where((judge - shift).abs() < judge.abs(), shift, 0.0)
    bias = node.args[2]
    old = constant_value(module, bias).double() if isinstance(bias, fx.Node) else torch.zeros_like(shift)
    shift = torch.where(_is_sound(module, node, old, old + shift), shift, 0.0)
    if bool(shift.any()):
        with module.graph.inserting_before(node):
            made = add_constant(module, (old + shift).to(torch.int32), f"{node.name}_bias")
        node.update_arg(2, made)
    return shift.to(torch.int32)


def _along(shift: Tensor, axis: int, ndim: int) -> Tensor:
    return shift.reshape([-1 if place == axis else 1 for place in range(ndim)])


def _is_sound(module: fx.GraphModule, node: fx.Node, old: Tensor, new: Tensor) -> Tensor:
    """The channels whose sums stay within 32 bits, and within what narrow multipliers have been made for."""
    reach = [_reach(module, node, bias) for bias in (old, new)]
    sound = reach[1] < ACCUMULATOR_LIMIT
    for user in node.users:
        if user.target is fxq.requantize.default:
            multiplier = constant_value(module, node_arg(user, 1)).flatten()
            sound &= is_narrow(multiplier, reach[1]) | ~is_narrow(multiplier, reach[0])
    return sound


def _reach(module: fx.GraphModule, node: fx.Node, bias: Tensor) -> Tensor:
    """The largest magnitude of each channel's sums, whatever the input."""
    found = range_of(node_arg(node, 0))
    assert found is not None  # a layer without one was left out
    x, weight = found.qparams, constant_value(module, node_arg(node, 1))
    if node.target is fxq.conv_transpose.default:
        groups = int_arg(node, "groups")
        weight = weight.reshape(groups, -1, *weight.shape[1:]).transpose(1, 2).flatten(0, 1)
    least, greatest = sum_bounds(weight.numpy(), bias.numpy(), x.one_zero_point, x.qmin, x.qmax)
    return torch.maximum(torch.from_numpy(greatest), -torch.from_numpy(least)).double()
