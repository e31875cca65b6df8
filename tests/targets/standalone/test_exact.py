"""Standalone code computes, on every emulated machine, what the integer graph computes in Python."""

from __future__ import annotations

from dataclasses import replace
from functools import lru_cache
from typing import Any

import pytest
import torch
from _pytest.mark import ParameterSet
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st
from torch import fx, nn

import fxquant
from fxquant.target import Target
from fxquant.targets.standalone.export import standalone
from fxquant.tools.emulate import ModelRun, emulate
from fxquant.tools.emulate.programs import missing
from tests.targets.standalone.made import EMULATED, emulated, network, quantized, small


def run(graph: torch.fx.GraphModule, target: Target, *, marked: bool = False) -> ModelRun:
    made = standalone(fxquant.integer_ports(graph), target, "net", marked=marked)
    return emulate(made.files, "net", made.report, target)


@pytest.mark.parametrize("target", emulated())
def test_one_of_everything(target: Target) -> None:
    assert run(small(), target).wrong == 0


# Bytes of the int8 tensors that live at the same time, as planners place them that give every tensor its own memory:
# three maps of 32x32x16 in a residual block; 25x5x64 twice; 48x48 of 8 and of 16 channels; 640 and 128 features.
TENSORS = {"resnet8": 3 * 16384, "ds_cnn": 2 * 8000, "mobilenet_v1": 18432 + 36864, "autoencoder": 640 + 128}


# A Cortex-M7 runs the M4's kernels: single layers and random networks are enough there.
@pytest.mark.parametrize("name", TENSORS)
@pytest.mark.parametrize("target", emulated(*(name for name in EMULATED if name != "cortex-m7")))
def test_mlperf_tiny(target: Target, name: str) -> None:
    made = standalone(fxquant.integer_ports(network(name)), target, "net")
    assert made.report["arena_bytes"] <= TENSORS[name]
    assert emulate(made.files, "net", made.report, target).wrong == 0


# Machines on which random networks run, a few for each instruction set.
RANDOM = (
    "c", "cortex-m0", "cortex-m4", "cortex-m55", "riscv64-rvv",
    "aarch64-neon", "aarch64-dotprod", "aarch64-i8mm", "armv7-neon",
)  # fmt: skip

# `benchmarks/standalone_zoo.py` has all networks on all of them.
OTHERS = [
    *((target, "conv1d") for target in emulated("c", "cortex-m4", "cortex-m55", "riscv32imc", "aarch64-dotprod")),
    *((target, "unet") for target in emulated("aarch64-dotprod")),
    *((target, name) for target in emulated("aarch64-neon") for name in ("shufflenet_v2", "mobilenet_v2")),
    *(
        (target, name)
        for target in emulated("armv7-neon")
        for name in ("mobilenet_v3_small", "densenet121")
    ),
    *((target, "squeezenet1_1") for target in emulated("aarch64-i8mm")),
    *((target, "mobilenet_v2") for target in emulated("riscv32imc")),
]


@pytest.mark.parametrize(
    ("target", "name"), [pytest.param(*t.values, n, marks=t.marks, id=f"{t.id}-{n}") for t, n in OTHERS]
)
def test_others_of_the_zoo(target: Target, name: str) -> None:
    assert run(network(name), target).wrong == 0


@pytest.mark.parametrize("target", emulated("c", "cortex-m4", "aarch64-dotprod"))
def test_images_whose_three_sizes_are_equal(target: Target) -> None:
    """Nothing but the layout tells their axes apart."""
    assert run(quantized(nn.Conv2d(8, 4, 3), torch.randn(2, 8, 8, 8)), target).wrong == 0
    assert run(quantized(nn.MaxPool2d(2), torch.randn(2, 6, 12, 12)), target).wrong == 0


@pytest.mark.parametrize("target", emulated("c", "cortex-m4", "cortex-m55", "aarch64-dotprod"))
def test_pointwise_over_a_padded_image(target: Target) -> None:
    """Padding below and to the right only: outputs that read no pixel are not shifted into the next row."""
    model = nn.Sequential(nn.ZeroPad2d((0, 2, 0, 1)), nn.Conv2d(8, 8, 1), nn.ReLU(), nn.Conv2d(8, 8, 1, stride=2))
    assert run(quantized(model, torch.randn(2, 8, 5, 6)), target).wrong == 0


@pytest.mark.parametrize("target", emulated("c", "cortex-m4", "cortex-m55", "aarch64-dotprod"))
def test_convolutions_over_their_operands(target: Target) -> None:
    """Results that take the memory of what they are computed from: pointwise, and depthwise of several paddings."""
    model = nn.Sequential(
        nn.Conv2d(8, 8, 3),
        nn.Conv2d(8, 8, 1),
        nn.Conv2d(8, 8, (3, 5), padding=(1, 2), groups=8),
        nn.Conv2d(8, 8, 3, padding=2, dilation=2, groups=8),
        nn.Conv2d(8, 24, 1),
        nn.Conv2d(24, 24, 3, stride=2, padding=1, groups=24),
        nn.Conv2d(24, 4, 1),
        nn.Conv2d(4, 12, 1),
        nn.Conv2d(12, 4, 3),
    )
    graph = fxquant.integer_ports(quantized(model, torch.randn(2, 8, 13, 11)))
    made = standalone(graph, target, "net")
    assert emulate(made.files, "net", made.report, target).wrong == 0
    # The layer of 24 channels (11 x 9 pixels) and its operand lie in the memory of the larger one.
    strip = 0 if target.isa == "scalar" else 1600
    assert target.isa == "scalar" or made.report["arena_bytes"] < 24 * 11 * 9 + strip


@pytest.mark.parametrize("target", emulated(*RANDOM))
def test_groups(target: Target) -> None:
    """Groups of several channels, of one each way, and over one pixel: no plain loops but where there are no others."""
    model = nn.Sequential(
        nn.Conv2d(16, 32, 3, padding=1, groups=4),
        nn.Conv2d(32, 16, 1, groups=2),
        nn.Conv2d(16, 48, 3, stride=2, groups=16),
        nn.Conv2d(48, 12, (3, 2), padding=(1, 0), groups=12),
        nn.AdaptiveAvgPool2d(1),
        nn.Conv2d(12, 6, 1, groups=3),
    )
    graph = fxquant.integer_ports(quantized(model, torch.randn(2, 16, 11, 9)))
    made = standalone(graph, target, "net")
    assert emulate(made.files, "net", made.report, target).wrong == 0
    assert target.isa == "scalar" or "plain" not in [layer["kernel"] for layer in made.report["layers"][:2]]


@pytest.mark.parametrize("target", emulated("aarch64-neon", "armv7-neon"))
def test_weights_that_plain_neon_declines(target: Target) -> None:
    """Neighbouring weights of -128: plain loops, exactly, and the report says why."""
    graph = fxquant.integer_ports(quantized(nn.Conv2d(16, 8, 1), torch.randn(2, 16, 5, 5)))
    (weight,) = (b for b in graph.buffers() if b.dtype == torch.int8)
    weight[:, :, :, :] = -128
    made = standalone(graph, target, "net")
    (layer,) = made.report["layers"]
    reason = "64 pairs of weights of -128, whose products do not fit 16 bits"
    assert layer["kernel"] == "plain" and [d["reason"] for d in layer["declined"]] == [reason]
    assert emulate(made.files, "net", made.report, target).wrong == 0


class Recurrent(nn.Module):
    """Every kind of recurrent layer, forwards and backwards; states that come in and go out."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(7, 5, batch_first=True)
        self.gru = nn.GRU(5, 6, batch_first=True, bidirectional=True)
        self.rnn = nn.RNN(12, 3, batch_first=True)
        self.relu = nn.RNN(3, 4, batch_first=True, nonlinearity="relu")
        self.small = nn.LSTM(4, 6, batch_first=True, proj_size=3)

    def forward(self, x: torch.Tensor, h: torch.Tensor, c: torch.Tensor, g: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """A sequence (N, 4, 7), states of the LSTM (1, N, 5) and of the GRU (2, N, 6)."""
        y, (h, c) = self.lstm(x, (h, c))
        y, g = self.gru(y, g)
        return self.small(self.relu(self.rnn(y)[0])[0])[0], h, c, g


@lru_cache
def recurrent() -> fx.GraphModule:
    """The INTEGER graph of Recurrent."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        states = torch.randn(1, 2, 5) / 2, torch.randn(1, 2, 5), torch.randn(2, 2, 6) / 2
        return quantized(Recurrent(), torch.randn(2, 4, 7), *states)


@pytest.mark.parametrize("target", emulated())
def test_recurrent_layers(target: Target) -> None:
    """States of 16 bits are ports of 16 bits, and what goes out may come in again."""
    graph = fxquant.integer_ports(recurrent())
    made = standalone(graph, target, "net")
    entries, leaving = made.report["inputs"], made.report["outputs"]
    assert [e["dtype"] for e in entries] == ["int8", "int8", "int16", "int16"]
    assert [(e["dtype"], e["scale"]) for e in entries[1:]] == [(e["dtype"], e["scale"]) for e in leaving[1:]]
    assert emulate(made.files, "net", made.report, target).wrong == 0


class Whole(nn.Module):
    """Ports of whole numbers and booleans, some of them handed through."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Embedding(5, 3)

    def forward(self, index: torch.Tensor, mask: torch.Tensor) -> tuple[torch.Tensor, ...]:
        """Both (N, 4)."""
        return torch.relu(self.table(index)), mask, index


@pytest.mark.parametrize("target", emulated("c", "cortex-m4", "x86-64"))
@pytest.mark.parametrize("dtype", [torch.int32, torch.int64])
def test_ports_of_whole_numbers_and_booleans(target: Target, dtype: torch.dtype) -> None:
    graph = quantized(Whole(), torch.randint(5, (2, 4), dtype=dtype), torch.rand(2, 4) > 0.5)
    assert run(graph, target).wrong == 0


def test_a_fixed_batch_is_part_of_the_port() -> None:
    (case,) = emulated("c")
    target, x = _runnable(case), torch.randn(3, 3, 8, 7)
    graph = fxquant.trace(nn.Conv2d(3, 4, 3).eval(), x, dynamic_batch=False)
    plain = fxquant.integer_ports(fxquant.quantize(graph, [x], progress=False))
    made = standalone(plain, target, "net")
    (entry,), (leaving,) = made.report["inputs"], made.report["outputs"]
    assert (entry["shape"], entry["memory_shape"]) == ([3, 3, 8, 7], [3, 8, 7, 3])
    assert leaving["memory_shape"] == [3, 6, 5, 4] and f"NET_OUT0_SIZE {3 * 6 * 5 * 4}\n" in made.files["net.h"]
    assert emulate(made.files, "net", made.report, target).wrong == 0


@st.composite
def convolutions(draw: st.DrawFn) -> tuple[nn.Module, torch.Tensor]:
    """A convolution of any geometry, perhaps after a ReLU, perhaps added to its operand; and its input."""
    groups = draw(st.sampled_from([1, 1, 1, 2, 8]))
    channels = 8 if groups == 8 else groups * draw(st.integers(1, 9))
    out = groups * draw(st.integers(1, 13 // groups)) if draw(st.booleans()) else channels
    kernel = (draw(st.integers(1, 5)), draw(st.integers(1, 5)))
    form: dict[str, Any] = {
        "stride": draw(st.integers(1, 3)),
        "padding": tuple(draw(st.integers(0, k - 1)) for k in kernel),
        "dilation": (draw(st.sampled_from([1, 1, 2])), draw(st.sampled_from([1, 1, 1, 2]))),
        "groups": groups,
    }
    size = tuple((k - 1) * d + draw(st.integers(1, 9)) for k, d in zip(kernel, form["dilation"], strict=True))
    torch.manual_seed(draw(st.integers(0, 1000)))
    conv = nn.Conv2d(channels, out, kernel, **form)
    layers = [conv, nn.ReLU()] if draw(st.booleans()) else [conv, nn.Conv2d(out, 4, 1), nn.Sigmoid()]
    return nn.Sequential(*layers), torch.randn(4, channels, *size) * draw(st.sampled_from([1.0, 30.0]))


@pytest.mark.parametrize("target", emulated(*RANDOM))
@settings(
    max_examples=6, derandomize=True, deadline=None, database=None, phases=[Phase.generate],
    suppress_health_check=list(HealthCheck),
)  # fmt: skip
@given(case=convolutions())
def test_random_convolutions(target: Target, case: tuple[nn.Module, torch.Tensor]) -> None:
    assert run(quantized(*case), target).wrong == 0


def _runnable(case: ParameterSet) -> Target:
    (target,) = case.values
    assert isinstance(target, Target)
    if missing(target):
        pytest.skip(missing(target))
    return target


def test_instructions_are_counted_by_layer_and_repeat() -> None:
    (case,) = emulated("cortex-m4")
    target, graph = _runnable(case), network("ds_cnn")
    first, again = run(graph, target, marked=True), run(graph, target, marked=True)
    assert first == again and first.layers is not None and first.instructions is not None
    assert sum(first.layers) <= first.instructions < sum(first.layers) + 1000
    assert 100 < first.stack_bytes < 4096


# Instructions of whole networks, measured with this project's kernels plus some per cent: a change that costs more must
# say so. CMSIS-NN's best build of ResNet-8 takes 29,001,335 on an M4 and 4,570,484 on an M55.
BARS = [
    ("cortex-m4", "resnet8", 14_900_000),
    ("cortex-m55", "resnet8", 2_200_000),
    ("cortex-m4", "ds_cnn", 4_700_000),
    ("cortex-m4", "autoencoder", 435_000),
    ("aarch64-dotprod", "resnet8", 1_350_000),
    ("aarch64-i8mm", "resnet8", 1_000_000),
    ("aarch64-neon", "resnet8", 4_000_000),
    ("armv7-neon", "resnet8", 7_900_000),
    ("cortex-m55", "mobilenet_v1", 2_900_000),
    ("cortex-m55", "ds_cnn", 1_080_000),
    ("riscv64-rvv", "resnet8", 2_120_000),
    ("riscv64-rvv", "ds_cnn", 755_000),
]


@pytest.mark.parametrize(("name", "network_name", "most"), BARS)
def test_instructions_stay_below(name: str, network_name: str, most: int) -> None:
    (case,) = emulated(name)
    found = run(network(network_name), _runnable(case))
    assert found.instructions is not None and found.instructions <= most


@pytest.mark.parametrize("bits", [256, 1024])
@pytest.mark.parametrize("target", emulated("riscv64-rvv"))
def test_longer_vectors_give_the_same_integers(target: Target, bits: int) -> None:
    """Code is made for vectors of 128 bits, the fewest that RVV 1.0 has; a core may have more."""
    assert target.toolchain is not None
    emulator = tuple(option.replace("vlen=128", f"vlen={bits}") for option in target.toolchain.emulator)
    assert emulator != target.toolchain.emulator
    longer = replace(target, toolchain=replace(target.toolchain, emulator=emulator))
    assert run(small(), longer).wrong == 0


def test_sdot_takes_few_instructions_per_product() -> None:
    """All 3x3 layers of ResNet-8 but the stem, whose 27 taps are fewer than its rounding takes."""
    (case,) = emulated("aarch64-dotprod")
    target = _runnable(case)
    made = standalone(fxquant.integer_ports(network("resnet8")), target, "net", marked=True)
    counts = emulate(made.files, "net", made.report, target).layers
    assert counts is not None
    layers = zip(made.report["layers"], counts, strict=True)
    rates = [count / layer["macs"] for layer, count in layers if layer["macs"] > 1_000_000]
    assert len(rates) == 6 and max(rates) <= 0.12


class Sum(nn.Module):
    """Nothing but an addition."""

    def forward(self, x: torch.Tensor, y: torch.Tensor) -> torch.Tensor:
        """Two images."""
        return x + y


# Layers alone, their operands, and elements of the result.
LAYERS: dict[str, tuple[nn.Module, list[tuple[int, ...]], int]] = {
    "add": (Sum(), [(16, 32, 32), (16, 32, 32)], 16 * 32 * 32),
    "max": (nn.MaxPool2d(2), [(16, 32, 32)], 16 * 16 * 16),
    "mean": (nn.AvgPool2d(2), [(16, 32, 32)], 16 * 16 * 16),
    "global": (nn.AdaptiveAvgPool2d(1), [(64, 8, 8)], 64),
    "linear": (nn.Linear(640, 128), [(640,)], 128),
    "pointwise": (nn.Conv2d(64, 64, 1), [(64, 25, 5)], 64 * 25 * 5),
    "conv": (nn.Conv2d(16, 16, 3, padding=1), [(16, 32, 32)], 16 * 32 * 32),
    "depthwise": (nn.Conv2d(64, 64, 3, padding=1, groups=64), [(64, 25, 5)], 64 * 25 * 5),
}
# Instructions per element of the result. CMSIS-NN, built by GCC 12, takes on M4 and M55: 81 and 13.8 for the addition,
# 43 and 10.9 for the maximum, 46 and 18.4 for the mean, 415 and 79 for the global one, 1,250 and 314 for the product,
# 129 and 25.4 for the pointwise convolution, 67 and 20.9 for the depthwise one, 328 and 56 for the 3x3 one.
MOST = [
    ("cortex-m4", "add", 28), ("cortex-m4", "max", 16), ("cortex-m4", "mean", 43), ("cortex-m4", "global", 300),
    ("cortex-m4", "linear", 1080), ("cortex-m55", "add", 5.5), ("cortex-m55", "max", 1.2), ("cortex-m55", "mean", 5.5),
    ("cortex-m55", "global", 45), ("cortex-m55", "linear", 110), ("aarch64-neon", "add", 6), ("armv7-neon", "add", 8),
    ("cortex-m4", "pointwise", 78), ("cortex-m55", "pointwise", 12), ("cortex-m55", "depthwise", 19),
    ("cortex-m4", "depthwise", 46), ("cortex-m4", "conv", 164), ("cortex-m55", "conv", 27), ("riscv64", "conv", 875),
    ("riscv64-rvv", "add", 2), ("riscv64-rvv", "conv", 29), ("riscv64-rvv", "depthwise", 6),
]  # fmt: skip


@pytest.mark.parametrize(("name", "what", "most"), MOST)
def test_layers_alone(name: str, what: str, most: float) -> None:
    (case,) = emulated(name)
    torch.manual_seed(0)
    model, shapes, elements = LAYERS[what]
    found = run(
        quantized(model, *(torch.randn(2, *shape) * (1 + i) for i, shape in enumerate(shapes))), _runnable(case)
    )
    assert found.wrong == 0 and found.instructions is not None
    assert found.instructions <= most * elements


@pytest.mark.parametrize("target", emulated(*RANDOM))
@pytest.mark.parametrize("scale", [0.01, 1, 700])
def test_additions_of_every_shift(target: Target, scale: float) -> None:
    """Operands whose scales differ by far, both ways, of sizes that are whole vectors and that are not."""
    torch.manual_seed(1)
    for shape in ((2, 4, 5, 5), (2, 3, 5, 3)):
        graph = quantized(Sum(), torch.randn(*shape), scale * torch.randn(*shape))
        assert run(graph, target).wrong == 0
