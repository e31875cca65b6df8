"""A step of training as integers: the last linear layer's gradient and update behind the network itself.

    %acc = fxq.linear(%x, weight, bias, z); %y = fxq.requantize(%acc, M); return %y
      =>  %label : int32[1], %w : int8[O, F], %w_rest : int16[O, F], %b : int32[O], %b_rest : int8[O]     new inputs
          %acc = fxq.matmul(%x, z, %w.T, 0); %y = fxq.add(%acc, M, %b, M)             the same %y, rounded once
          %error = softmax(%y) - one_hot(%label)                                       in 256ths
          %sum = %w * 2^16 + %w_rest - rate * %error * (%x - z)                        in s32, rounded once
          %w_next = requantize(%sum, 2^-16); %w_rest_next = %sum - %w_next * 2^16      nothing is lost
          return %y, %w_next, %w_rest_next, %b_next, %b_rest_next

All of it are primitives that there were before: every target has their kernels, and Python's integers are the device's.
The loss is cross-entropy, the step that of stochastic gradient descent, of one sample. Scales stay as they are, and
weights within their codes. The names on new inputs and outputs: see `fxquant.training.device`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, ClassVar

import torch
from torch import Tensor, fx

from fxquant.arguments import argument, int_arg, int_args, node_arg
from fxquant.errors import TrainingError
from fxquant.graph import add_constant, call, clean, constant_value, fake_mode, infer, inherit, locate, outputs
from fxquant.graph import placeholders as inputs_of
from fxquant.names import NAME, OUTPUTS, output_names
from fxquant.ops.fixed_point import LARGEST_SHIFT, encode
from fxquant.ops.normalize import powers_of
from fxquant.passes.trained_layers import TrainedLayer, trained_layer
from fxquant.passmanager import Pass
from fxquant.plan import required_range
from fxquant.primitives.registry import storage
from fxquant.stage import Stage
from fxquant.training.device import BIAS_FRACTION, DEVICE_RATE, FRACTION, LABEL, NEXT, ONE, STATE, State

aten, fxq = torch.ops.aten, torch.ops.fxq

# A sum of 30 bits times 2^30 stays below 2^61, where products saturate.
_UNIT, _UNIT_SHIFT, _SUM_BITS = 1 << 30, 2, 29


@dataclass(frozen=True)
class TrainOnDevice(Pass):
    """Append a step of training of the last linear layer, or of its bias, with this learning rate.

    Needs integer ports (IntegerPorts). Raises TrainingError for layers that cannot be trained so, and for a rate with
    which nothing would change, or everything at once.
    """

    layers: tuple[str, ...] = ()
    rate: float = DEVICE_RATE
    needs: ClassVar[Stage] = Stage.INTEGER
    gives: ClassVar[Stage] = Stage.INTEGER

    def run(self, module: fx.GraphModule) -> fx.GraphModule:
        """The layer reads its state; then the error, the gradients, and the updates."""
        layer = trained_layer(module, self.layers)
        names = output_names(module)
        _fix_batch(module)
        step = _Step(module, layer, self.rate)
        scores = step.expose()
        updated = step.update(step.error(scores))
        for name, node in updated.items():
            node.meta[NEXT] = name
        module.graph.output_node().args = ((*outputs(module.graph), *updated.values()),)
        module.meta[OUTPUTS] = (*names, *(f"next_{name}" for name in updated))
        return clean(module)


def _fix_batch(module: fx.GraphModule) -> None:
    """A step is of one sample."""
    for node in module.graph.nodes:
        if node.op == "placeholder":
            value = node.meta["val"]
            sizes = [1 if isinstance(size, torch.SymInt) else int(size) for size in value.shape]
            node.meta["val"] = value.new_empty(sizes)
        elif node.op == "call_function":
            infer(node)
    module.meta["fxq.batch"] = "static: a step of training is of one sample"


@dataclass(frozen=True)
class _Trained:
    """A tensor of the state: where its codes and their rest come in, and how they are updated.

    `unit` is the real value of a code, by channel; `largest` the largest code.
    """

    codes: fx.Node
    rest: fx.Node
    fraction: int
    unit: Tensor
    largest: int


class _Step:
    """The graph while the step is written into it."""

    def __init__(self, module: fx.GraphModule, layer: TrainedLayer, rate: float) -> None:
        self.module, self.graph, self.layer = module, module.graph, layer
        if not (math.isfinite(rate) and rate > 0):
            raise TrainingError(f"the rate {rate} is no learning rate: it is a positive number, such as 2**-5")
        self.rate, self.zero = rate, int_arg(layer.accumulators, "zero_point")
        self.label = self._input("label", torch.zeros(1, dtype=torch.int32))
        self.label.meta[LABEL] = layer.channels
        with self.graph.inserting_after(self.label):
            units = {sign: self._constant(torch.tensor([sign * _UNIT], dtype=torch.int32), "unit") for sign in (1, -1)}
        self.units = units
        self.weight = self._weight() if layer.weight else None
        self.bias = self._bias() if layer.bias and argument(layer.accumulators, "bias") is not None else None

    def _input(self, wanted: str, example: Tensor) -> fx.Node:
        """A new input behind all others."""
        taken = {str(node.target) for node in inputs_of(self.graph)}
        name, count = wanted, 0
        while name in taken:
            count += 1
            name = f"{wanted}_{count}"
        with self.graph.inserting_after(inputs_of(self.graph)[-1]):
            node = self.graph.placeholder(name)
        mode = fake_mode(self.graph)
        node.meta["val"] = mode.from_tensor(example, static_shapes=True) if mode else example
        node.meta[NAME] = name
        return node

    def _state(self, role: str, initial: Tensor, constant: str = "") -> fx.Node:
        spelled = "".join(c if c.isalnum() else "_" for c in self.layer.name)
        # A place in nn.Sequential is no identifier.
        node = self._input(f"layer_{spelled}_{role}" if spelled[:1].isdigit() else f"{spelled}_{role}", initial)
        node.meta[STATE] = State(self.layer.name, constant, initial)
        return node

    def _weight(self) -> _Trained:
        constant, qparams = node_arg(self.layer.accumulators, "weight"), self.layer.weight_qparams
        codes = constant_value(self.module, constant).clone()
        rest = torch.zeros(codes.shape, dtype=storage(*_rest(FRACTION)))
        nodes = self._state("weight", codes, str(constant.target)), self._state("weight_rest", rest)
        return _Trained(*nodes, FRACTION, self.layer.weight_scale[:, None], qparams.qmax)

    def _bias(self) -> _Trained:
        constant = node_arg(self.layer.accumulators, "bias")
        codes = constant_value(self.module, constant).clone()
        fraction = min(BIAS_FRACTION, _SUM_BITS - 1 - int(codes.abs().amax()).bit_length())
        if fraction < 1:
            raise TrainingError(
                f"the bias of {self.layer.name!r} takes more than {_SUM_BITS - 2} bits at the scale of its sums, which "
                "leaves none for its update: train the weight alone"
            )
        rest = torch.zeros(codes.shape, dtype=storage(*_rest(fraction)))
        nodes = self._state("bias", codes, str(constant.target)), self._state("bias_rest", rest)
        unit = self.layer.operand_scale * self.layer.weight_scale
        return _Trained(*nodes, fraction, unit, (1 << (_SUM_BITS - fraction)) - 1)

    def expose(self) -> fx.Node:
        """The layer over its state in place of its constants; the scores."""
        acc, rounding = self.layer.accumulators, self.layer.rounding
        zero = self.zero
        with self.graph.inserting_before(rounding):
            if self.weight is None:
                sums = call(self.graph, fxq.linear.default, self.layer.operand, acc.args[1], None, zero, like=acc)
            else:
                turned = self._call("transposed", aten.permute.default, self.weight.codes, [1, 0])
                sums = call(self.graph, fxq.matmul.default, self.layer.operand, zero, turned, 0, like=acc)
            bias = argument(acc, "bias") if self.bias is None else self.bias.codes
            multiplier, shift = node_arg(rounding, "multiplier"), int_arg(rounding, "shift")
            target, ends = int_args(rounding, "zero_point", "qmin", "qmax"), (multiplier, shift, 0)
            if bias is None:
                scores = call(self.graph, fxq.requantize.default, sums, *ends, *target, like=rounding)
            else:
                scores = call(self.graph, fxq.add.default, sums, *ends, bias, *ends, *target, like=rounding)
        for old, new in ((acc, sums), (rounding, scores)):
            inherit(new, old)
            new.meta.update({key: value for key, value in old.meta.items() if key != "val"})
        rounding.replace_all_uses_with(scores)
        return scores

    def _call(self, role: str, target: Any, *args: Any) -> fx.Node:
        """A call of the step's own."""
        node = call(self.graph, target, *args)
        node.meta[NAME] = f"{self.layer.name}:{role}"
        locate(node, self.layer.accumulators)
        return node

    def _constant(self, value: Tensor, role: str) -> fx.Node:
        return add_constant(self.module, value.contiguous(), f"{self.layer.name}_{role}")

    def _units(self, bits: int = 0, sign: int = 1) -> tuple[fx.Node, int]:
        """Multiplier and shift of plus or minus 2^bits."""
        return self.units[sign], _UNIT_SHIFT + bits

    def error(self, scores: fx.Node) -> fx.Node:
        """Probabilities less the label's one, s16 [classes] in 256ths: the gradient of cross-entropy in the scores."""
        classes, q = self.layer.channels, required_range(scores).qparams
        with self.graph.inserting_before(self.graph.output_node()):
            row = self._call("scores", aten.view.default, scores, [1, classes])
            powers = self._constant(powers_of(q, classes)[1], "powers")
            rounded = self._call("softmax", fxq.softmax.default, row, powers, ONE << 32, 0, 0, ONE)
            chances = self._call("probabilities", aten.view.default, rounded, [classes])
            every = self._constant(torch.arange(classes, dtype=torch.int32), "classes")
            away = self._call(
                "distance", fxq.add.default, every, *self._units(), 0, self.label, *self._units(sign=-1), 0, 0, -1, 1
            )
            hot = self._constant(torch.tensor([0, 1, 0], dtype=torch.int8), "one_hot")
            wanted = self._call("one_hot", fxq.lookup.default, away, hot, -1)
            less = self._units(ONE.bit_length() - 1, -1)
            return self._call("error", fxq.add.default, chances, *self._units(), 0, wanted, *less, 0, 0, -ONE, ONE)

    def update(self, error: fx.Node) -> dict[str, fx.Node]:
        """The next value of every input of the state, by its name."""
        found: dict[str, fx.Node] = {}
        x = self.layer.operand
        with self.graph.inserting_before(self.graph.output_node()):
            if self.weight is not None:
                column = self._call("errors", aten.view.default, error, [self.layer.channels, 1])
                gradient = self._call("gradient", fxq.mul.default, column, 0, x, self.zero)
                found.update(self._updated("weight", self.weight, gradient, self.layer.operand_scale))
            if self.bias is not None:
                found.update(self._updated("bias", self.bias, error, 1.0))
        return found

    def _updated(self, role: str, state: _Trained, gradient: fx.Node, scale: float) -> dict[str, fx.Node]:
        """Codes and rest less the gradient, s32, in units of `scale` / 256: added exactly, clamped, taken apart."""
        fraction, most = state.fraction, state.largest << state.fraction
        factors = -self.rate * scale / ONE / state.unit * 2.0**fraction
        shift, (multiplier,) = encode(self._checked(factors, role))
        old = self._call(
            f"{role}_before", fxq.add.default,
            state.codes, *self._units(fraction), 0, state.rest, *self._units(), 0, 0, *_sums(most, fraction),
        )  # fmt: skip
        total = self._call(
            f"{role}_sum", fxq.add.default,
            old, *self._units(), 0, gradient, self._constant(multiplier, f"{role}_rate"), shift, 0, 0, -most, most,
        )  # fmt: skip
        down = encode(torch.tensor([2.0**-fraction], dtype=torch.float64))
        codes = self._call(
            f"{role}_next", fxq.requantize.default,
            total, self._constant(down[1][0], "down"), down[0], 0, 0, -state.largest, state.largest,
        )  # fmt: skip
        rest = self._call(
            f"{role}_rest_next", fxq.add.default,
            total, *self._units(), 0, codes, *self._units(fraction, -1), 0, 0, *_rest(fraction),
        )  # fmt: skip
        return {str(state.codes.target): codes, str(state.rest.target): rest}

    def _checked(self, factors: Tensor, role: str) -> Tensor:
        largest = float(factors.abs().amax())
        if largest >= 2.0**LARGEST_SHIFT:
            raise TrainingError(f"the rate {self.rate} moves {self.layer.name}.{role} beyond its codes: take less")
        if largest * ONE * (255 if role == "weight" else 1) < 0.5:
            raise TrainingError(f"with the rate {self.rate} no step changes {self.layer.name}.{role}: take more")
        return factors


def _rest(fraction: int) -> tuple[int, int]:
    """What rounding, ties towards plus infinity, leaves."""
    return -(1 << fraction - 1), (1 << fraction - 1) - 1


def _sums(most: int, fraction: int) -> tuple[int, int]:
    """Codes and their rest together."""
    low, high = _rest(fraction)
    return -most + low, most + high
