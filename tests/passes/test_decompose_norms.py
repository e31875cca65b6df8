"""Norms, by name and by hand, become rows that layer_norm and rms_norm take; what only looks like one stays."""

from __future__ import annotations

from typing import Any

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor

from fxquant.passes import Decompose, FoldConstants
from tests.passes.graphs import Net, assert_same, data, traced

aten = torch.ops.aten
LAYER, RMS = aten.layer_norm.default, aten.rms_norm.default
CONSTANTS = {"row": torch.linspace(0.5, 2.0, 6), "column": torch.linspace(-1.0, 1.0, 4).reshape(4, 1, 1)}


def _mean(x: Tensor, axis: int) -> Tensor:
    return x - x.mean(axis, keepdim=True)


NORMS: dict[str, tuple[Any, Any]] = {
    "group": (lambda m, x: F.group_norm(x, 2, m.column.flatten(), m.column.flatten()), LAYER),
    "group of more axes": (lambda m, x: F.group_norm(x.unsqueeze(2), 2, m.column.flatten()), LAYER),
    "instance": (lambda m, x: F.instance_norm(x), LAYER),
    "several axes": (lambda m, x: F.layer_norm(x, (5, 6), m.row.expand(5, 6), m.row.expand(5, 6)), LAYER),
    "rms over several axes": (lambda m, x: F.rms_norm(x, (5, 6), eps=1e-3), RMS),
    "rms by hand": (lambda m, x: x * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6) * m.row, RMS),
    "rms by hand, reversed": (lambda m, x: m.row * (torch.rsqrt((x * x).mean(-1, True) + 0.1) * x), RMS),
    "rms by a quotient": (lambda m, x: x / (x.square().sum(1, True) + 0.5).sqrt(), RMS),
    "rms by a power": (lambda m, x: x * (x.square().mean(-1, True) + 1e-5) ** -0.5, RMS),
    "rms by an inverse": (lambda m, x: x * (1 / torch.sqrt(x.square().mean(2, True) + 1e-5)), RMS),
    "unit vectors": (lambda m, x: F.normalize(x, dim=1), RMS),
    "unit matrices": (lambda m, x: x / x.norm(dim=(2, 3), keepdim=True), RMS),
    "channels by hand": (lambda m, x: _mean(x, 1) / torch.sqrt(_mean(x, 1).pow(2).mean(1, True) + 1e-5), LAYER),
    "variance": (lambda m, x: _mean(x, 1) * torch.rsqrt(x.var(1, keepdim=True) + 1e-5), LAYER),
    "variance of all": (lambda m, x: _mean(x, -1) / (x.var(-1, False, keepdim=True) + 0.1).sqrt(), LAYER),
    "gamma and beta": (lambda m, x: _mean(x, -1) / (x.var(-1, False, keepdim=True) + 0.1).sqrt() * m.row + 1, LAYER),
}


@pytest.mark.parametrize("form", NORMS)
def test_rows(form: str) -> None:
    forward, target = NORMS[form]
    inputs = data((2, 4, 5, 6))
    before = traced(Net(forward, **CONSTANTS), *inputs)
    after = FoldConstants()(Decompose()(before))
    found = [node for node in after.graph.nodes if node.target in (LAYER, RMS)]
    assert [node.target for node in found] == [target]
    assert not {aten.sqrt.default, aten.rsqrt.default, aten.div.Tensor} & {node.target for node in after.graph.nodes}
    assert_same(before, after, *inputs)


def test_gamma_and_beta_belong_to_the_norm() -> None:
    inputs = data((2, 4, 5, 6))
    before = traced(Net(lambda m, x: F.layer_norm(x, (6,)) * m.row + m.row, **CONSTANTS), *inputs)
    after = FoldConstants()(Decompose()(before))
    assert [node.target for node in after.graph.nodes if node.op == "call_function"] == [LAYER]
    assert_same(before, after, *inputs)


OTHERS: dict[str, Any] = {
    "another value": lambda m, x: x.flip(1) * torch.rsqrt(x.pow(2).mean(-1, keepdim=True) + 1e-6),
    "the mean of others": lambda m, x: _mean(x, 1) / torch.sqrt(_mean(x, 2).pow(2).mean(1, True) + 1e-5),
    "variance of others": lambda m, x: _mean(x, 2) * torch.rsqrt(x.var(1, keepdim=True) + 1e-5),
    "a large least length": lambda m, x: F.normalize(x, dim=1, eps=3.0),
    "a third power": lambda m, x: x * torch.rsqrt(x.abs().pow(3).mean(-1, keepdim=True) + 1e-6),
    "the sum of lengths": lambda m, x: x / x.abs().sum(1, True),
    "more than the root": lambda m, x: x / (torch.sqrt(x.square().mean(1, True)) + 0.1),
}


@pytest.mark.parametrize("form", OTHERS)
def test_what_is_no_norm_stays(form: str) -> None:
    inputs = data((2, 4, 5, 6))
    before = traced(Net(OTHERS[form]), *inputs)
    after = Decompose()(before)
    assert not {LAYER, RMS} & {node.target for node in after.graph.nodes}
    assert_same(before, after, *inputs)
