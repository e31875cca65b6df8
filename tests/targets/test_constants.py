"""Constants in the file and in memory: small ones are stored, large ones are made of them, equal ones are kept once."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import torch
from torch import nn

import fxquant as fxq
from fxquant import targets
from fxquant.targets.buffers import SLACK, Buffer, Expands
from fxquant.targets.hosted import profile
from fxquant.targets.kernels.choosing import modelled
from fxquant.targets.kernels.contract.kernel import Expansion, Kernel
from fxquant.targets.lowering.lowering import Lowering
from fxquant.targets.planner import HOSTED, plan_memory, weight_blob
from fxquant.targets.program import Call, Program

CHANNELS = 64


class Shared(nn.Module):
    """One 3x3 convolution applied on two sizes, so that its two kernels differ."""

    def __init__(self) -> None:
        super().__init__()
        self.conv = nn.Conv2d(CHANNELS, CHANNELS, 3, padding=1)
        self.pool = nn.MaxPool2d(2)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """(N, C, H, W) -> (N, C, H / 2, W / 2)."""
        y: torch.Tensor = self.conv(self.pool(self.conv(x)))
        return y


def quantized(model: nn.Module, data: list[torch.Tensor]) -> torch.fx.GraphModule:
    return fxq.quantize(fxq.trace(model.eval(), data[0]), data)


def data(side: int) -> list[torch.Tensor]:
    return list(torch.randn(3, 2, CHANNELS, side, side, generator=torch.Generator().manual_seed(1)))


def test_a_shared_weight_is_stored_once_as_int8(tmp_path: Path) -> None:
    torch.manual_seed(0)
    samples = data(28)
    graph = quantized(Shared(), samples)
    net = fxq.compile(graph, target="x86-avx2")
    kernels = [layer["kernel"] for layer in net.report["layers"]]
    assert kernels.count("winograd") == 2
    count = 9 * CHANNELS * CHANNELS
    assert count <= len(net.artifact.weight_view) < 1.3 * count
    assert net.artifact.resident_bytes > 3 * len(net.artifact.weight_view)
    loaded = fxq.load(net.save(tmp_path / "shared.fxq"), threads=1)
    with torch.no_grad():
        for x in samples:
            assert torch.equal(loaded(x), graph(x))


def test_profiles_of_expanded_weights() -> None:
    found = profile.profile(quantized(Shared(), data(28)), [data(28)[0][:1]], rounds=1)
    assert [layer.kernel for layer in found.layers].count("winograd") == 2


def test_nothing_is_expanded_without_need() -> None:
    net = fxq.compile(quantized(nn.Conv2d(CHANNELS, 8, 1), data(4)), target="x86-avx2")
    assert net.artifact.resident_bytes == 0


def test_places_of_constants() -> None:
    plain, raw = (Buffer(name, "constant", 100, np.full(100, value, np.uint8)) for name, value in (("p", 1), ("r", 2)))
    wider = [Buffer("w", "constant", 800, expands=Expands(symbol, raw)) for symbol in ("one", "two")]
    plan = plan_memory(program := Program(calls=[Call("k", (wider[0], plain, wider[1]), (), "layer")]))
    room = -(-(100 + SLACK) // HOSTED.align) * HOSTED.align
    assert (plan.plain_bytes, plan.weight_bytes, plan.constant_bytes) == (room, 2 * room, plan.resident_bytes)
    assert [plan.offset(b) for b in (plain, raw, wider[0])] == [0, room, room]
    assert plan.offset(wider[1]) >= plan.offset(wider[0]) + 800 + SLACK
    assert plan.resident_bytes >= plan.offset(wider[1]) + 800 + SLACK
    blob = np.frombuffer(weight_blob(program, plan), np.uint8)
    assert (blob[:100] == 1).all() and (blob[room : room + 100] == 2).all() and blob.sum() == 300


def test_equal_constants_are_one_buffer() -> None:
    lowering = Lowering(
        quantized(nn.Conv2d(4, 4, 1), list(torch.randn(2, 1, 4, 2, 2))), targets.get("x86-avx2"), modelled
    )

    def build() -> Kernel:
        return Kernel(None, 1)

    values = np.arange(6, dtype=np.int16)
    first = lowering.packed(values, "a")
    assert lowering.packed(values.copy(), "b") is first
    assert lowering.packed(values.view(np.uint16), "c") is not first
    wide, other = (Expansion(key, build, 100) for key in ("wide", "other"))
    expanded = lowering.packed(values, "d", wide)
    assert lowering.packed(values.copy(), "e", wide) is expanded
    beside = lowering.packed(values, "f", other)
    assert beside is not expanded and beside.expands is not None and beside.expands.stored is first
