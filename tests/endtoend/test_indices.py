"""Indices that a table lacks: an error in Python and in hosted code, the nearest row where nobody can be told."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant
from fxquant.errors import InputError
from fxquant.target import Target
from fxquant.targets.standalone.export import standalone
from fxquant.tools.emulate import emulate
from tests.targets.standalone.made import emulated

ROWS, BAD = 10, (10, -1, 2**32, -(2**63))


class Looked(nn.Module):
    """Rows by an input's indices, by indices computed of it, and of a table that is a weight as well."""

    def __init__(self) -> None:
        super().__init__()
        self.table, self.other = nn.Embedding(ROWS, 6), nn.Embedding(5, 6)
        self.layer = nn.Linear(6, ROWS)

    def forward(self, tokens: Tensor, kinds: Tensor) -> tuple[Tensor, Tensor]:
        """Tokens (N, 7) below ROWS; kinds (N, 7) from 2 to 6."""
        x = torch.relu(self.table(tokens) + self.other(kinds - 2))
        return self.layer(x), nn.functional.linear(x, self.table.weight)


def inputs(count: int) -> tuple[Tensor, Tensor]:
    generator = torch.Generator().manual_seed(count)
    return torch.randint(ROWS, (count, 7), generator=generator), torch.randint(2, 7, (count, 7), generator=generator)


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = Looked().eval()
    return fxquant.quantize(fxquant.trace(model, inputs(4)), [inputs(4)], progress=False)


def wrong(number: int, index: int) -> tuple[Tensor, Tensor]:
    """One index of one sample of one input out of range."""
    given = inputs(4)
    given[number][2, 3] = index
    return given


@pytest.mark.parametrize("index", BAD)
def test_python_raises(graph: fx.GraphModule, index: int) -> None:
    with pytest.raises(IndexError, match="out of range"):
        graph(*wrong(0, index))


@pytest.mark.parametrize("threads", [1, 2])
def test_hosted_code_tells_which(graph: fx.GraphModule, threads: int, tmp_path: Path) -> None:
    fxquant.compile(graph, threads=1, name="net", against_float=False).save(tmp_path / "net.fxq")
    with fxquant.load(tmp_path / "net.fxq", threads) as net:
        for index in BAD:
            said = rf"input 'tokens' of model 'net' holds the index {index}, but the table of layer 'table' has 10"
            with pytest.raises(InputError, match=said):
                net(*wrong(0, index))
        for index, computed in ((7, 5), (1, -1)):
            with pytest.raises(
                InputError, match=rf"value 'sub\w*' of model 'net' holds the index {computed}, .* has 5"
            ):
                net(*wrong(1, index))
        for found, wanted in zip(net(*inputs(4)), graph(*inputs(4)), strict=True):
            assert torch.equal(found, wanted)


@pytest.mark.parametrize("recipe", [{"rules": [{"match": "aten.embedding", "keep_float": True}]}, "dynamic"])
def test_tables_in_float_are_held_to_their_rows_as_well(recipe: Any) -> None:
    model = nn.Sequential(nn.Embedding(3, 4), nn.Linear(4, 4)).eval()
    tokens = torch.tensor([[0, 2, 1], [2, 1, 0]])
    quantized = fxquant.quantize(fxquant.trace(model, tokens), [tokens], recipe=recipe, progress=False)
    with fxquant.compile(quantized, threads=1, against_float=False) as net:
        assert torch.equal(net(tokens), quantized(tokens))
        with pytest.raises(InputError, match=r"holds the index 3, .* has 3 rows"):
            net(tokens + 1)


@pytest.mark.parametrize("target", emulated("c", "cortex-m4", "aarch64-dotprod"))
def test_standalone_code_takes_the_nearest_row(graph: fx.GraphModule, target: Target) -> None:
    plain = fxquant.integer_ports(graph)
    for index, nearest in ((10, 9), (-1, 0), (2**32, 9), (-(2**63), 0)):
        for found, wanted in zip(plain(*wrong(0, index)), plain(*wrong(0, nearest)), strict=True):
            assert torch.equal(found, wanted)
    # Its golden vectors have indices beyond both ends.
    made = standalone(plain, target, "net")
    assert emulate(made.files, "net", made.report, target).wrong == 0


def test_a_network_may_be_compiled_whatever_indices_it_takes() -> None:
    """What is made up to try it and to time it need not be among them."""
    model = nn.Embedding(4, 3)
    shifted = type("Shifted", (nn.Module,), {"forward": lambda self, x: model(x - 1000)})().eval()
    x = torch.tensor([[1000, 1003]])
    quantized = fxquant.quantize(fxquant.trace(shifted, x), [x], progress=False)
    with fxquant.compile(quantized, threads=1) as net:
        assert torch.equal(net(x), quantized(x))
