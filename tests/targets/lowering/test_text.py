"""What small networks are lowered to, as text: calls, views, strides, offsets, and what may be written over what."""

from __future__ import annotations

from collections.abc import Callable

import pytest
import torch
from torch import Tensor, nn

import fxquant
from fxquant import targets
from fxquant.targets.lowering import lower
from fxquant.targets.program import Program
from fxquant.targets.program_text import text
from fxquant.targets.standalone.network import network
from tests.targets.standalone.made import quantized, small


class Flipped(nn.Module):
    """A linear layer behind a flip."""

    def __init__(self) -> None:
        super().__init__()
        self.linear = nn.Linear(16, 96)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 16)."""
        out: Tensor = self.linear(torch.flip(x, [1]))
        return out


class Joined(nn.Module):
    """A concat that its parts are written into, with a border, and a slice of it."""

    def __init__(self) -> None:
        super().__init__()
        self.left, self.right = nn.Conv2d(3, 4, 1), nn.Conv2d(3, 8, 3, padding=1)
        self.after = nn.Conv2d(12, 4, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        """(N, 3, 6, 5)."""
        both = torch.cat([self.left(x), self.right(x)], 1)
        out: Tensor = self.after(both) + both[:, 2:6]
        return out


def lowered(model: nn.Module, *x: Tensor) -> Program:
    with torch.random.fork_rng(devices=[]):
        target = targets.get("x86-avx2")
        return lower(quantized(model, *x), target)


@pytest.fixture(autouse=True)
def _same_numbers() -> None:
    torch.manual_seed(0)


def test_flip(golden: Callable[[str], None]) -> None:
    golden(text(lowered(Flipped(), torch.randn(4, 16))))


def test_concat(golden: Callable[[str], None]) -> None:
    golden(text(lowered(Joined(), torch.randn(2, 3, 6, 5))))


def test_vectors_of_any_length(golden: Callable[[str], None]) -> None:
    golden(text(network(fxquant.integer_ports(small()), targets.get("riscv64-rvv"), "small").program))


def test_microcontroller(golden: Callable[[str], None]) -> None:
    golden(text(network(fxquant.integer_ports(small()), targets.get("cortex-m4"), "small").program))
