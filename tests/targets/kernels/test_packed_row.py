"""One row times weights of few bits that stay packed in memory: exact, whatever the sizes, and chosen where it pays."""

from __future__ import annotations

import pytest
import torch
from torch import nn

import fxquant
from fxquant import targets
from fxquant.targets.hosted.compiler import compile_graph
from fxquant.targets.kernels.choosing import Offer
from fxquant.targets.kernels.contract.template import Candidate
from fxquant.targets.lowering import lower
from tests.targets.kernels.conv_cases import needs_avx2


def _graph(inputs: int, outputs: int, bits: int) -> torch.fx.GraphModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(inputs)
        model, x = nn.Linear(inputs, outputs), torch.randn(3, inputs)
        recipe = {"rules": [{"match": "*", "weight": {"bits": bits}}]}
        return fxquant.quantize(fxquant.trace(model, x), [x], recipe=recipe, progress=False)


def _packed(offer: Offer) -> Candidate:
    return next(found for found in offer.all() if found.kernel == "packed-row")


@needs_avx2
@pytest.mark.parametrize(("inputs", "outputs", "bits"), [(64, 32, 4), (37, 131, 4), (130, 70, 2)])
def test_results_are_exact(inputs: int, outputs: int, bits: int) -> None:
    graph, x = _graph(inputs, outputs, bits), torch.randn(3, inputs) * 3
    with fxquant.CompiledModel(compile_graph(graph, targets.get("x86-avx2"), "net", _packed), 1) as net:
        assert torch.equal(net(x), graph(x))


def test_small_matrices_are_widened_when_a_model_is_loaded() -> None:
    """And where no vectors of channels share a chunk, there is no such kernel at all."""
    chosen: list[list[str]] = []

    def choose(offer: Offer) -> Candidate:
        chosen.append([offer.first().kernel, *sorted({found.kernel for found in offer.all()})])
        return offer.first()

    for outputs in (64, 8):
        lower(_graph(64, outputs, 4), targets.get("x86-avx2"), choose)
    assert chosen == [["conv", "conv", "packed-row"], ["conv", "conv"]]
