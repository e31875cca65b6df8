"""Training on the device, in Python: the network stays what it was, the gradient is right, and nothing is lost."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import InputError, TrainingError, UnknownNameError
from fxquant.graph import calls, placeholders
from fxquant.training.device import FRACTION, DeviceTraining
from tests.training.learners import CLASSES, IMAGES, LABELS, both, quantized

fxq = torch.ops.fxq


def steps(training: DeviceTraining, state: dict[str, Tensor], count: int) -> dict[str, Tensor]:
    """So many steps over the images in turn."""
    for i in range(count):
        _, state = training.step(IMAGES[i % 64][None], int(LABELS[i % 64]), state)
    return state


@pytest.mark.parametrize(
    ("layers", "end"),
    [(["head"], ""), (["head"], "softmax"), (["head"], "log_softmax"), (["head.bias"], ""), (["head.weight"], "")],
)
def test_what_is_computed_is_the_network_with_the_weights_of_the_state(layers: list[str], end: str) -> None:
    """Before the first step, and after some: to the bit."""
    training = fxquant.train_on_device(quantized(end), layers, rate=0.25)
    state, names = training.start(), [name for name in training.start() if not name.endswith("rest")]
    assert names == [f"head_{part}" for part in ("weight", "bias") if "head" in layers or f"head.{part}" in layers]
    for i in range(5):
        outputs, following = training.step(IMAGES[i][None], i, state)
        plain = fxquant.integer_ports(training.trained(state))
        assert torch.equal(outputs[0], plain(_integers(plain, IMAGES[i][None])))
        state = following
    for name in names:
        assert not torch.equal(state[name], training.start()[name])


def _integers(plain: fx.GraphModule, x: Tensor) -> Tensor:
    found: Tensor = placeholders(plain.graph)[0].meta["fxq.port"].quantize(x)
    return found


def _gradients(graph: fx.GraphModule, x: Tensor, label: int) -> tuple[Tensor, Tensor, Tensor]:
    """Of cross-entropy, by autograd in float64: in the weight, in the bias; and the scales of the weight."""
    (layer,) = [node for node in calls(graph.graph, fxq.linear.default) if node.meta["fxq.name"].startswith("head")]
    operand: Any = layer.args[0]
    scale = operand.meta["fxq.range"].qparams.one_scale
    units = torch.tensor(layer.meta["fxq.weight_qparams"].scale, dtype=torch.float64)
    values: dict[str, Tensor] = {}

    class Watch(fx.Interpreter):
        def run_node(self, n: fx.Node) -> Any:
            values[n.name] = super().run_node(n)
            return values[n.name]

    Watch(graph, garbage_collect_values=False).run(x)
    features = (values[operand.name].double() + 128) * scale
    weight = (graph.get_buffer(str(layer.args[1])).double() * units[:, None]).requires_grad_()
    bias = (graph.get_buffer(str(layer.args[2])).double() * units * scale).requires_grad_()
    nn.functional.cross_entropy(features @ weight.T + bias, torch.tensor([label])).backward()  # type: ignore[no-untyped-call]
    assert weight.grad is not None and bias.grad is not None
    return weight.grad, bias.grad / scale, units


def test_the_gradient_is_that_of_autograd() -> None:
    """In length and direction, as far as probabilities in 256ths and scores of 8 bits tell."""
    graph, rate = quantized(), 1.0
    training = fxquant.train_on_device(graph, ["head"], rate=rate)
    plain = fxquant.integer_ports(graph)
    first, cosines = training.start(), []
    for i in range(12):
        _, state = training.step(IMAGES[i][None], int(LABELS[i]), first)
        moved = _moved(first, state)
        weight, bias, units = _gradients(plain, _integers(plain, IMAGES[i][None]), int(LABELS[i]))
        wanted = torch.cat([(-rate * weight / units[:, None]).flatten(), -rate * bias / units])
        cosines.append(float(nn.functional.cosine_similarity(moved, wanted, 0)))
        assert 0.97 < float(moved.norm() / wanted.norm()) < 1.03
    assert min(cosines) > 0.995


def _moved(before: dict[str, Tensor], after: dict[str, Tensor]) -> Tensor:
    """By how many codes weight and bias have moved, as one vector."""

    def exact(state: dict[str, Tensor], part: str, fraction: int) -> Tensor:
        return state[f"head_{part}"].double() + state[f"head_{part}_rest"].double() * 2.0**-fraction

    parts = (("weight", FRACTION), ("bias", 8))
    return torch.cat([(exact(after, *part) - exact(before, *part)).flatten() for part in parts])


def test_small_steps_add_up() -> None:
    """No step of this rate changes a weight by half a code, and sixty of them do: the rest is kept."""
    training = fxquant.train_on_device(quantized(), ["head"], rate=2.0**-9)
    first = training.start()
    one = training.step(IMAGES[:1], 1, first)[1]
    assert torch.equal(one["head_weight"], first["head_weight"]) and one["head_weight_rest"].any()
    state = first
    for _ in range(60):
        _, state = training.step(IMAGES[:1], 1, state)
    assert not torch.equal(state["head_weight"], first["head_weight"])
    moved = float(_moved(first, state).norm() / _moved(first, one).norm())
    assert 50 < moved < 62  # the error shrinks on the way


@pytest.mark.parametrize("bits", [8, 6])
def test_weights_stay_within_their_codes(bits: int) -> None:
    """With a rate far too large, many of them are at the ends, where nothing is left over."""
    training, most = fxquant.train_on_device(quantized(bits=bits), ["head"], rate=200.0), (1 << bits - 1) - 1
    state = steps(training, training.start(), 20)
    ends = state["head_weight"].abs() == most
    assert state["head_weight"].abs().amax() == most and ends.float().mean() > 0.2
    assert (state["head_weight_rest"][ends].to(torch.int32) * state["head_weight"][ends].sign() <= 0).all()


def test_it_learns() -> None:
    """What a network of random weights makes of noisy patterns is enough for its last layer to tell them apart."""
    training = fxquant.train_on_device(quantized(scale=20.0), ["head"], rate=4.0)
    state = steps(training, training.start(), 100)
    before, after = (
        (training.trained(s)(IMAGES).argmax(1) == LABELS).float().mean() for s in (training.start(), state)
    )
    assert before < 0.35 and after > 0.65


def test_several_inputs_and_outputs() -> None:
    """The label is the last input, under a name that is free; all outputs are there."""
    training = fxquant.train_on_device(both(), ["head"])
    names = [str(node.target) for node in placeholders(training.graph.graph)]
    assert names[:3] == ["x", "label", "label_1"]
    pair = IMAGES[:1], IMAGES[1:2]
    found, state = training.step(pair, 3, training.start())
    plain = fxquant.integer_ports(both())
    wanted = plain(
        *(node.meta["fxq.port"].quantize(x) for node, x in zip(placeholders(plain.graph), pair, strict=True))
    )
    assert all(torch.equal(a, b) for a, b in zip(found, wanted, strict=True))
    assert not torch.equal(state["head_weight_rest"], training.start()["head_weight_rest"])


def test_without_a_bias() -> None:
    training = fxquant.train_on_device(quantized(bias=False), ["head"])
    assert list(training.start()) == ["head_weight", "head_weight_rest"]
    with pytest.raises(TrainingError, match="it has no bias: train its weight"):
        fxquant.train_on_device(quantized(bias=False), ["head.bias"])


REFUSED = [
    (
        ["conv"],
        r"conv .*cannot be trained on the device: it is a convolution, whose gradient.*train 'head' or 'head.bias'",
    ),
    (["head", "hidden.bias"], r"it is a linear layer, but not the last one, which is 'head'"),
    (["flatten"], r"it has no weights of a linear layer"),
    ([], r"nothing is to be trained: name the last linear layer"),
]


@pytest.mark.parametrize(("layers", "told"), REFUSED)
def test_other_layers_are_refused(layers: list[str], told: str) -> None:
    with pytest.raises(TrainingError, match=told):
        fxquant.train_on_device(quantized(), layers)


def test_what_there_is_not_is_unknown() -> None:
    with pytest.raises(UnknownNameError, match="did you mean head"):
        fxquant.train_on_device(quantized(), ["heads"])


def test_packed_weights_are_refused_but_not_their_bias() -> None:
    with pytest.raises(TrainingError, match=r"its weights are packed, several in a byte: give it 8 bits by a rule"):
        fxquant.train_on_device(quantized(bits=4), ["head"])
    training = fxquant.train_on_device(quantized(bits=4), ["head.bias"])
    outputs, state = training.step(IMAGES[:1], 0, training.start())
    plain = fxquant.integer_ports(quantized(bits=4))
    assert torch.equal(outputs[0], plain(_integers(plain, IMAGES[:1]))) and list(state) == [
        "head_bias",
        "head_bias_rest",
    ]


class Rows(nn.Module):
    """Scores of every row."""

    def __init__(self) -> None:
        super().__init__()
        self.head = nn.Linear(4, 3)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 5, 4)."""
        y: Tensor = self.head(x)
        return y


def _refusal(model: nn.Module, x: Tensor, recipe: Any = None) -> str:
    graph = fxquant.quantize(fxquant.trace(model.eval(), x), [x], recipe=recipe, progress=False)
    with pytest.raises(TrainingError) as caught:
        fxquant.train_on_device(graph, ["head" if isinstance(model, Rows) else "0"])
    return str(caught.value)


def test_networks_that_do_not_end_so_are_refused() -> None:
    x = torch.randn(2, 4, generator=torch.Generator().manual_seed(0))
    assert "it is computed for several rows of a sample" in _refusal(Rows(), torch.stack([x] * 5, 1))
    assert "only a classifier is trained on the device" in _refusal(nn.Sequential(nn.Linear(4, 3), nn.Sigmoid()), x)
    wide = {"activation": {"bits": 16}}
    assert "8 by a rule of the recipe" in _refusal(nn.Sequential(nn.Linear(4, 3)), x, wide)


@pytest.mark.parametrize(
    ("rate", "told"),
    [(0.0, "no learning rate"), (float("nan"), "no learning rate"), (1e9, "take less"), (1e-12, "take more")],
)
def test_rates_that_teach_nothing_are_refused(rate: float, told: str) -> None:
    with pytest.raises(TrainingError, match=told):
        fxquant.train_on_device(quantized(), ["head"], rate=rate)


@pytest.mark.parametrize("label", [-1, CLASSES])
def test_a_label_is_a_class(label: int) -> None:
    training = fxquant.train_on_device(quantized(), ["head"])
    with pytest.raises(InputError, match=f"none of the {CLASSES} classes"):
        training.step(IMAGES[:1], label, training.start())
