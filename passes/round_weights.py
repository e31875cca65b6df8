"""Round a layer's weights so that their errors cancel in what the layer gives, not each to its nearest.

    %w_dq = dequantize_channels(%w_q, %s); %c = conv2d(%x_dq, %w_dq)   =>   the same with other integers in %w_q

With X what the layer reads, as rows, an error D of its weights costs |X D|^2 = D' H D, H = X' X. Weights are rounded
one input after the other, and what each loses is made good by those that are not rounded yet, by the inverse of H: GPTQ
(Frantar et al. 2022, "Accurate Post-Training Quantization for Generative Pre-trained Transformers"), which sees the
windows of images as rows. Then each integer in turn is moved to where it is best beside all others, which can only
lower D' H D, as QuantEase does (Behdin et al. 2023, arXiv 2309.01885). Of several scales, the coarse ones of which clip
nothing, every output of a layer of few bits takes the one with which its weights end up with the least error. X is what
the quantized layers before give, those being done.

It costs nothing at run time. A layer keeps its nearest integers where inputs that nothing was fitted to lose by others.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, ClassVar

import torch
import torch.nn.functional as F
from torch import Tensor, fx

from fxquant.arguments import argument, int_arg, node_arg
from fxquant.gains import Gain, decibels, note_gain
from fxquant.graph import add_constant, calls, clean, constant_value
from fxquant.kept import WEIGHT, Kept
from fxquant.ops.products import numbers
from fxquant.passes.insert_qdq import replace_weight
from fxquant.passmanager import Pass
from fxquant.plan import is_dynamic, is_integer, required_plan
from fxquant.products import LIMIT
from fxquant.qparams import QParams
from fxquant.stage import Stage
from fxquant.trials import SAMPLES, as_trials
from fxquant.walk import Walk
from fxquant.weight_scales import fit_scales

aten = torch.ops.aten

_LAYERS = (aten.conv1d.default, aten.conv2d.default, aten.linear.default)
# Rows of X that are looked at, evenly out of all; inputs of a layer beyond which it is left alone.
MOST_ROWS, MOST_INPUTS = 1 << 14, 4608
# What is added to the diagonal of H, as a share of its mean.
DAMPING = 0.01
# From so many bits on no scale is made finer; else it is tried by these factors.
ENOUGH_BITS = 6
FINER = (1.0, 0.93, 0.86, 0.8, 0.74, 0.68, 0.62, 0.56, 0.5)
# How often all integers are moved, one after the other.
TURNS = 3
# Inputs whose effect on all others is taken into account at once.
BLOCK = 128


@dataclass(frozen=True)
class RoundWeights(Pass):
    """Round a layer's weights so that their errors cancel in what the layer gives, not each to its nearest.

    `data` are inputs as for `calibrate`, or Trials; `samples` of them are looked at.
    """

    needs: ClassVar[Stage] = Stage.QUANTIZED
    gives: ClassVar[Stage] = Stage.QUANTIZED
    data: Any = field(repr=False)
    samples: int = SAMPLES

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """Case 1: linear layers. Case 2: convolutions, of any groups. Transposed ones keep their nearest integers."""
        layers = {node for node in calls(module.graph, *_LAYERS) if _has_integers(node)}
        trials = as_trials(module, self.data, self.samples)
        walk, count = Walk(module, trials.all), len(trials.fit)
        before, after, kept = 0.0, 0.0, 0
        for node in walk:
            if node not in layers:
                continue
            layer = _Layer(module, node, walk.values[node_arg(node, 0)], count)
            nearest, rounded, qparams = layer.round()
            before += nearest
            after += min(nearest, rounded)
            if rounded < nearest:
                kept += 1
                layer.keep(qparams)
                made = node_arg(node, 1)
                walk.values[made] = [walk.value(made, batch) for batch in range(len(walk.batches))]
                walk.again(node)
                del walk.values[made]
        note = "" if layers else "no convolution or linear layer with weights in integers occurs"
        told = [decibels(1.0, noise / max(1, len(layers))) for noise in (before, after)]
        note_gain(module, Gain(self.name, len(layers), kept, "their layers", told[0], told[1], note))
        return clean(module)


def _has_integers(node: fx.Node) -> bool:
    weight = node_arg(node, 1)
    q = weight.meta.get("fxq.weight_qparams")
    if not isinstance(q, QParams) or WEIGHT not in weight.meta or not is_integer(node) or is_dynamic(node):
        return False
    # Kernels that add neighbouring products in 16 bits look at the weights: other integers might have no room there.
    has_room = required_plan(node).weight.products * q.qmax <= LIMIT or required_plan(node).weight.products == 1
    return has_room and weight.meta["val"][0].numel() <= MOST_INPUTS


class _Layer:
    """A layer's weights by groups, (groups, outputs, inputs), and H of what it reads: to fit to, and to judge by."""

    def __init__(self, module: fx.GraphModule, node: fx.Node, read: Sequence[Tensor], count: int) -> None:
        self.module, self.node = module, node
        self.made = node_arg(node, 1)
        self.kept: Kept = self.made.meta[WEIGHT]
        self.qparams: QParams = self.made.meta["fxq.weight_qparams"]
        self.groups = 1 if node.target is aten.linear.default else int_arg(node, "groups")
        self.weight = self._grouped(self.kept.value.double())
        self.fit, self.judge = (self._products(batches) for batches in (read[:count], read[count:]))
        self.integers = self._grouped(constant_value(module, node_arg(self.made, 0)).double())

    def round(self) -> tuple[float, float, QParams]:
        """The share of noise on the inputs to judge by, of nearest integers and of others; the parameters of these."""
        nearest = self._noise(self.integers * self._scale(self.qparams))
        qparams = self._finer()
        scale = self._scale(qparams)
        self.integers = self._moved(self._rounded(qparams, scale), qparams, scale)
        return nearest, self._noise(self.integers * scale), qparams

    def keep(self, qparams: QParams) -> None:
        """Put the integers into the graph."""
        if qparams != self.qparams:
            replace_weight(self.module, self.node, self.kept, qparams, self.node.name)
        made = node_arg(self.node, 1)
        integers = self.integers.reshape(self.kept.value.shape).to(qparams.dtype)
        with self.module.graph.inserting_before(made):
            made.update_arg(0, add_constant(self.module, integers, f"{self.node.name}_q"))

    def _grouped(self, weight: Tensor) -> Tensor:
        return weight.reshape(self.groups, weight.shape[0] // self.groups, -1)

    def _scale(self, qparams: QParams) -> Tensor:
        return torch.tensor(qparams.scale, dtype=torch.float64).reshape(self.groups, -1, 1)

    def _products(self, batches: Sequence[Tensor]) -> Tensor:
        """H = X' X over the rows that are looked at, for each group."""
        inputs = self.weight.shape[-1]
        found = torch.zeros(self.groups, inputs, inputs, dtype=torch.float64)
        samples = [batch[place : place + 1] for batch in batches for place in range(len(batch))]
        for sample in samples:
            rows = _rows(self.node, sample, self.groups)
            taken = rows[:, :: max(1, rows.shape[1] * len(samples) // MOST_ROWS)].double()
            found += taken.transpose(1, 2) @ taken
        return found

    def _noise(self, weight: Tensor) -> float:
        noise, signal = (float(((w @ self.judge) * w).sum()) for w in (weight - self.weight, self.weight))
        return noise / signal if signal else 0.0

    def _finer(self) -> QParams:
        """Scales that are finer where the weights, rounded by them, lose less than what clipping costs."""
        scheme = required_plan(self.node).weight
        if scheme.bits >= ENOUGH_BITS or scheme.axis is None:
            return self.qparams
        q, scale = self.qparams, self._scale(self.qparams)
        costs = []
        for factor in FINER:
            error = self._rounded(q, scale * factor) * scale * factor - self.weight
            costs.append(((error @ self.fit) * error).sum(-1))
        best = torch.tensor(FINER, dtype=torch.float64)[torch.stack(costs).argmin(0)]
        scales = (scale[..., 0] * best).float().flatten().tolist()
        bias = argument(self.node, "bias")
        value = constant_value(self.module, bias) if isinstance(bias, fx.Node) else None
        scales = fit_scales(self.node, self.kept.value, 0, scales, scheme, value)
        return QParams(tuple(scales), q.zero_point, q.qmin, q.qmax, q.axis)

    @cached_property
    def _order(self) -> Tensor:
        """The inputs, the most active ones first."""
        return self.fit.diagonal(dim1=1, dim2=2).sum(0).argsort(descending=True)

    @cached_property
    def _factor(self) -> Tensor:
        """The upper Cholesky factor of the inverse of H, damped, in that order."""
        diagonal = self.fit.diagonal(dim1=1, dim2=2)
        damping = (DAMPING * diagonal.mean(1, keepdim=True)).clamp(min=1e-12).expand_as(diagonal)
        damped = (self.fit + torch.diag_embed(damping))[:, self._order][:, :, self._order]
        inverse = torch.cholesky_inverse(torch.linalg.cholesky(damped))
        found: Tensor = torch.linalg.cholesky(inverse, upper=True)
        return found

    def _rounded(self, q: QParams, scale: Tensor) -> Tensor:
        """Integers, each input's rounded in turn, the rest taking up its error; the most active inputs first."""
        weight, factor, step = self.weight[..., self._order], self._factor, scale[..., 0]
        integers = torch.empty_like(weight)
        for first in range(0, weight.shape[-1], BLOCK):
            last = min(first + BLOCK, weight.shape[-1])
            errors = torch.empty_like(weight[..., first:last])
            for place in range(first, last):
                column = weight[..., place]
                integers[..., place] = torch.round(column / step).clamp(q.qmin, q.qmax)
                error = (column - integers[..., place] * step) / factor[:, place, place, None]
                weight[..., place:last] -= error[..., None] * factor[:, None, place, place:last]
                errors[..., place - first] = error
            weight[..., last:] -= errors @ factor[:, first:last, last:]
        back = torch.empty_like(integers)
        back[..., self._order] = integers
        return back

    def _moved(self, integers: Tensor, q: QParams, scale: Tensor) -> Tensor:
        """Integers each of which is the best one beside all others: along it the error has no slope but by rounding."""
        step, found, error = scale[..., 0], integers.clone(), integers * scale - self.weight
        for places in torch.split(self._order, BLOCK) * TURNS:
            slopes = error @ self.fit[:, :, places]
            for index, place in enumerate(places.tolist()):
                own = self.fit[:, place, place, None]
                best = self.weight[..., place] + error[..., place] - slopes[..., index] / own.clamp(min=1e-30)
                moved = torch.round(best / step).clamp(q.qmin, q.qmax).where(own > 0, found[..., place])
                by = (moved - found[..., place]) * step
                found[..., place] = moved
                error[..., place] += by
                slopes += by[..., None] * self.fit[:, None, place, places]
        return found


def _rows(node: fx.Node, x: Tensor, groups: int) -> Tensor:
    """What meets one set of weights, (groups, rows, inputs): vectors, or windows of images."""
    if node.target is aten.linear.default:
        return x.reshape(1, -1, x.shape[-1])
    ndim = x.ndim - 2
    kernel = node_arg(node, 1).meta["val"].shape[2:]
    stride, padding, dilation = (numbers(argument(node, name), ndim) for name in ("stride", "padding", "dilation"))
    if ndim == 1:
        x, kernel, stride, dilation = x[:, :, None], (1, *kernel), [1, *stride], [1, *dilation]
        padding = [0, *padding]
    windows = F.unfold(x, kernel, *map(tuple, (dilation, padding, stride)))
    split = windows.reshape(len(x), groups, -1, windows.shape[-1])
    return split.permute(1, 0, 3, 2).reshape(groups, -1, split.shape[2])
