"""Training gains what few bits lose, on scikit-learn's digits; `benchmarks/train.py` has the whole table."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import nn
from torch.nn import functional

import fxquant
from fxquant.tools.digits import Digits, images, train


@pytest.fixture
def alone() -> Iterator[None]:
    """Numbers of its own, on one core."""
    threads = torch.get_num_threads()
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        torch.set_num_threads(1)
        yield
        torch.set_num_threads(threads)


@pytest.mark.usefixtures("alone")
def test_trained_integers_are_near_float_where_others_are_not() -> None:
    x, y, test_x, test_y = images()
    plain = Digits()
    train(plain, x, y, epochs=range(4))
    graph = fxquant.trace(plain, x[:2])
    calibration = [*torch.split(x[:256], 32)]

    def accuracy(model: nn.Module) -> float:
        with torch.no_grad():
            return float((model(test_x).argmax(1) == test_y).double().mean())

    def trained(recipe: dict[str, Any], epochs: int) -> nn.Module:
        model = fxquant.prepare_qat(graph, recipe, calibration, exact=False, progress=False)
        optimizer = torch.optim.Adam(fxquant.qat_parameters(model), lr=2e-3)
        with fxquant.distill(model, graph) as distilled:
            for epoch in range(epochs):
                if epoch == epochs - 1:
                    fxquant.freeze_norms(model)
                    model.exact = True
                for chosen in torch.split(torch.randperm(len(x)), 64):
                    optimizer.zero_grad()
                    loss = functional.cross_entropy(model(x[chosen]), y[chosen]) + distilled.loss()
                    loss.backward()  # type: ignore[no-untyped-call]
                    optimizer.step()
        return fxquant.convert(model)

    real = accuracy(plain)
    for weight, value, bound, gain in ((4, 8, 0.005, 0.0), (2, 4, 0.08, 0.1)):
        recipe = {"weight": {"bits": weight}, "activation": {"bits": value}}
        recipe["rules"] = [{"match": "x", "activation": {"bits": 8}}]  # type: ignore[assignment]
        before = accuracy(fxquant.quantize(graph, calibration, recipe=recipe, progress=False))
        after = accuracy(trained(recipe, 3))
        assert after >= before + gain and after >= real - bound, f"W{weight}A{value}: {before}, {after}, float {real}"
