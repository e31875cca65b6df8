"""Views of values, whatever they are, in front of everything that reads values: the same integers, in guarded memory.

A kernel takes what the lowering of a view gives it: strides, offsets, axes of one element, copies in another layout or
another memory form. One that takes it for something else writes where it must not.
"""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import LoweringError
from tests.endtoend.networks import runnable_targets
from tests.guarded import run_guarded

CHANNELS, SIZE = 16, 6
View = Callable[[Tensor], Tensor]

# Each gives (N, 16, 6, 6) of (N, 16, 6, 6).
VIEWS: dict[str, View] = {
    "flip channels": lambda x: x.flip(1),
    "flip all": lambda x: x.flip(1, -1).flip(-2),
    "permute": lambda x: x.reshape(-1, 4, 4, SIZE, SIZE).permute(0, 2, 1, 4, 3).reshape(-1, CHANNELS, SIZE, SIZE),
    "expand channels": lambda x: x[:, 3:4].expand(-1, CHANNELS, -1, -1),
    "expand rows": lambda x: x[:, :, 2:3].expand(-1, -1, SIZE, -1),
    "slices joined": lambda x: torch.cat([x[:, 1::2], x[:, ::2]], 1),
    "steps": lambda x: F.interpolate(x, scale_factor=3.0, mode="nearest")[:, :, 1::3, 2::3],
    "inside": lambda x: F.pad(x, (2, 1, 1, 3))[:, :, 1:-3, 2:-1],
    "empty parts": lambda x: torch.cat([x[:, :0], x[:, :9], x[:, 4:4], x[:, 9:]], 1),
}


class Read(nn.Module):
    """A view of an image (N, 16, 6, 6), of the input or of a layer's result, and everything that may read it."""

    def __init__(self, view: View) -> None:
        super().__init__()
        self.view = view
        self.before, self.wide = nn.Conv2d(CHANNELS, CHANNELS, 1), nn.Conv2d(CHANNELS, 24, 3, padding=1)
        self.deep = nn.Conv2d(CHANNELS, CHANNELS, 3, groups=CHANNELS, padding=1)
        self.linear, self.across = nn.Linear(SIZE, 40), nn.Linear(CHANNELS, 40)

    def forward(self, x: Tensor) -> tuple[Tensor, ...]:
        """All readers of the view of the input, and of the view of a result."""
        v, w = self.view(x), self.view(torch.relu(self.before(x)))
        return (
            self.linear(v), self.across(w[:, :, 0, 1]), self.wide(w), self.deep(v), torch.matmul(v, w.transpose(2, 3)),
            torch.softmax(w, -1), F.max_pool2d(w, 2), v + w, torch.cat([w, v], 1),
        )  # fmt: skip


def quantized(model: nn.Module, x: Tensor) -> fx.GraphModule:
    return fxquant.quantize(fxquant.trace(model.eval(), x), [x], progress=False)


@pytest.mark.parametrize("target", runnable_targets()[-1:])
@pytest.mark.parametrize("view", VIEWS)
def test_every_reader_of_every_view(view: str, target: str) -> None:
    torch.manual_seed(len(view))
    x = torch.randn(1, CHANNELS, SIZE, SIZE)
    graph = quantized(Read(VIEWS[view]), x)
    assert not [n.name for n in graph.graph.nodes if n.meta.get("fxq.island")]
    with fxquant.compile(graph, target, threads=1, against_float=False) as net, torch.no_grad():
        expected = graph(x)
        for at_end in (True, False):
            for number, (found, wanted) in enumerate(
                zip(run_guarded(net.artifact, [x.numpy()], at_end), expected, strict=True)
            ):
                assert torch.equal(torch.from_numpy(found), wanted), f"output {number}"


def test_what_a_caller_holds_as_s8_is_brought_into_the_memory_form() -> None:
    """Integer ports are s8 without the bias that x86 kernels expect: the same kind of value as an island's s8."""
    torch.manual_seed(0)
    x = torch.randn(2, 16)
    graph = fxquant.integer_ports(quantized(nn.Linear(16, 96), x))
    codes = torch.randint(-128, 128, (3, 16), dtype=torch.int8)
    with fxquant.compile(graph, runnable_targets()[0], threads=1) as net:
        assert torch.equal(net(codes), graph(codes))


class Emptied(nn.Module):
    """A sum over nothing."""

    def forward(self, x: Tensor) -> Tensor:
        """(N, C)."""
        return torch.relu(x) + x[:, :0].sum(1, keepdim=True)


class Nothing(nn.Module):
    """An output without elements beside one that has some."""

    def forward(self, x: Tensor) -> tuple[Tensor, Tensor]:
        """(N, C)."""
        return torch.relu(x)[:, 2:2], torch.relu(x)


def test_an_operation_on_nothing_is_refused_by_name() -> None:
    with pytest.raises(LoweringError, match=r"sum.* out of a tensor without elements"):
        fxquant.compile(quantized(Emptied(), torch.randn(2, 8)), runnable_targets()[0], against_float=False)


def test_an_output_without_elements() -> None:
    x = torch.randn(2, 8)
    graph = quantized(Nothing(), x)
    with fxquant.compile(graph, runnable_targets()[0], threads=1, against_float=False) as net, torch.no_grad():
        for found, wanted in zip(net(x), graph(x), strict=True):
            assert found.shape == wanted.shape and torch.equal(found, wanted)
