"""What is trained is what is deployed: the forward pass of a TRAINING graph gives the integers of its INTEGER graph.

FXQUANT_FUZZ=<number of networks> fuzzes longer, with other networks each time.
"""

from __future__ import annotations

import os
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, Phase, given, reject, settings
from hypothesis import strategies as st
from torch import Tensor, nn

import fxquant
from fxquant.errors import FxquantError
from tests.endtoend.networks import Network, is_refusal
from tests.endtoend.strategy import networks

WANTED = int(os.environ.get("FXQUANT_FUZZ", "0"))


def outputs(found: Any) -> tuple[Tensor, ...]:
    return found if isinstance(found, tuple) else (found,)


def same(left: Any, right: Any) -> bool:
    """Equal to the bit, where NaN of a float island is NaN."""
    pairs = zip(outputs(left), outputs(right), strict=True)
    return all(a.dtype == b.dtype and torch.equal(torch.nan_to_num(a), torch.nan_to_num(b)) for a, b in pairs)


def disturb(model: nn.Module, seed: int) -> None:
    """Steps that no training would take: every parameter moves at random, scales by up to several times."""
    generator = torch.Generator().manual_seed(seed)
    with torch.no_grad():
        for name, parameter in model.named_parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            size = 1.0 if "step" in name else float(parameter.abs().mean()) * 0.5
            parameter.add_(noise * size)


@pytest.mark.timeout(0 if WANTED else 600)
@settings(
    max_examples=WANTED or 12,
    derandomize=not WANTED,
    deadline=None,
    database=None,
    phases=[Phase.explicit, Phase.generate, Phase.shrink] if WANTED else [Phase.generate],
    suppress_health_check=list(HealthCheck),
)
@given(network=networks(most=9), bits=st.sampled_from([None, 8, 4, 2]), live=st.booleans(), seed=st.integers(0, 99))
def test_on_random_networks(network: Network, bits: int | None, live: bool, seed: int) -> None:
    recipe = dict(network.recipe)
    if bits is not None:
        recipe |= {"weight": {"bits": bits}, "activation": {"bits": bits}}
    try:
        traced = fxquant.trace(network.build(), network.data(2, 0), dynamic_batch=network.dynamic)
        model = fxquant.prepare_qat(traced, recipe, [network.data(2, i) for i in (0, 1)], progress=False)
        if not live:
            fxquant.freeze_norms(model)
        trained = [p for p in model.parameters() if p.requires_grad]
        loss = sum((y.float() ** 2).mean() for y in outputs(model(*network.data(2, 0))) if y.requires_grad)
        if isinstance(loss, Tensor):
            loss.backward()  # type: ignore[no-untyped-call]
            with torch.no_grad():
                for p in trained:
                    if p.grad is not None:
                        p.sub_(0.1 * torch.nan_to_num(p.grad).clamp(-1, 1))
        disturb(model, seed)
        fxquant.freeze_norms(model)
        integer = fxquant.convert(model)
    except FxquantError as error:
        if not is_refusal(error) and "training has" not in str(error):
            raise
        reject()
    x = network.data(3 if network.dynamic else 2, 7, specials=not network.has_islands)
    expected = integer(*x)
    in_training = model(*x)
    assert same(in_training, expected), "in training"
    model.eval()
    assert same(model(*x), expected), "in eval mode, with gradients"
    with torch.no_grad():
        assert same(model(*x), expected), "in eval mode"


class Cells(nn.Module):
    """A recurrent layer and what reads its last step."""

    def __init__(self, cell: nn.Module) -> None:
        super().__init__()
        self.cell, self.last = cell, nn.Linear(6, 3)

    def forward(self, x: Tensor) -> Tensor:
        """Sequences (N, 5, 4) to (N, 3)."""
        found: Tensor = self.last(self.cell(x)[0][:, -1])
        return found


@pytest.mark.parametrize("kind", [nn.LSTM, nn.GRU])
def test_recurrent_layers_have_their_own_gradients(kind: type[nn.Module]) -> None:
    torch.manual_seed(0)
    plain, x = Cells(kind(4, 6, batch_first=True)), torch.randn(8, 5, 4)
    graph = fxquant.trace(plain.eval(), x)
    model = fxquant.prepare_qat(graph, None, [x], progress=False)
    model(x).square().sum().backward()
    plain(x).square().sum().backward()
    found = dict(model.named_parameters())
    for name, parameter in plain.named_parameters():
        own, trained = parameter.grad, found[name].grad
        assert own is not None and trained is not None, name
        assert float((own - trained).norm() / own.norm()) < 0.2, name
    disturb(model, 1)
    assert torch.equal(model(x), fxquant.convert(model)(x))
