"""Masks of torch.nn.utils.prune hold while training: no optimizer moves a zero, and what is deployed has it."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn
from torch.nn.utils import prune

import fxquant
from fxquant.errors import TrainingError
from fxquant.kept import MASKS
from fxquant.passes import FoldConstants
from fxquant.training import TrainingGraph


def masked(*parts: nn.Module) -> tuple[fx.GraphModule, list[Tensor], Tensor]:
    """The model with 0.6 of each weight masked, and one weight more that is zero by chance; its masks; inputs."""
    torch.manual_seed(0)
    model = nn.Sequential(*parts).eval()
    layers = [part for part in model if isinstance(part, (nn.Conv2d, nn.Conv3d, nn.ConvTranspose2d, nn.Linear))]
    for layer in layers:
        prune.random_unstructured(layer, "weight", 0.6)  # type: ignore[no-untyped-call]
        left = layer.weight_mask.flatten().nonzero()[0]  # type: ignore[operator]
        with torch.no_grad():
            layer.weight_orig.view(-1)[left] = 0  # type: ignore[operator]
    shape = (4, 3, 4, 8, 8) if isinstance(model[0], nn.Conv3d) else (4, 3, 8, 8)
    x = torch.randn(shape)
    return fxquant.trace(model, x), [layer.weight_mask for layer in layers], x  # type: ignore[misc]


def trained(model: TrainingGraph, x: Tensor, steps: int = 4) -> None:
    """With all that moves weights: momentum, decay, Adam's quotients."""
    optimizer = torch.optim.AdamW(fxquant.qat_parameters(model), lr=1e-2, weight_decay=0.1)
    for step in range(steps):
        if step == steps // 2:
            fxquant.freeze_norms(model)
        optimizer.zero_grad()
        model(x).square().mean().backward()
        optimizer.step()


NETWORKS: dict[str, Any] = {
    "norms": lambda: (nn.Conv2d(3, 8, 3), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 8, 3, groups=2), nn.ReLU(),
                      nn.Flatten(), nn.Linear(128, 4)),
    "transposed": lambda: (nn.ConvTranspose2d(3, 6, 3), nn.BatchNorm2d(6), nn.ReLU(), nn.Conv2d(6, 2, 3)),
    "volumes": lambda: (nn.Conv3d(3, 4, 3), nn.BatchNorm3d(4), nn.ReLU(), nn.Flatten(), nn.Linear(288, 4)),
}  # fmt: skip


@pytest.mark.parametrize("exact", [True, False], ids=["exact", "cheap"])
@pytest.mark.parametrize("name", NETWORKS)
def test_no_step_moves_a_zero(name: str, exact: bool) -> None:
    graph, masks, x = masked(*NETWORKS[name]())
    model = fxquant.prepare_qat(graph, None, [x], exact=exact, progress=False)
    before = {key: value.clone() for key, value in model.state_dict().items() if isinstance(value, Tensor)}
    trained(model, x)
    integer = fxquant.convert(model)
    assert torch.equal(model.eval()(x), integer(x))
    weights = [w for key, w in integer.named_buffers() if key.endswith("_weight") and w.dtype == torch.int8]
    assert len(weights) == len(masks)
    for weight, mask in zip(weights, masks, strict=True):
        assert not weight.reshape(mask.shape)[mask == 0].any()
        assert (weight.reshape(mask.shape)[mask == 1] != 0).float().mean() > 0.5
    parameters = [(key, p) for key, p in model.named_parameters() if p.ndim > 1]
    assert len(parameters) == len(masks)
    for mask in masks:
        key, now = next((key, p.detach()) for key, p in parameters if p.numel() == mask.numel())
        moved = (now != before[key]).reshape(mask.shape)
        assert not moved[mask == 0].any()
        # All else is trained, and what was zero by chance as well.
        assert moved[mask == 1].float().mean() > 0.9 and now[before[key] == 0].any()


def test_a_mask_is_part_of_the_state() -> None:
    graph, masks, x = masked(*NETWORKS["norms"]())
    first, second = (fxquant.prepare_qat(graph, None, [x], progress=False) for _ in range(2))
    trained(first, x)
    second.load_state_dict(first.state_dict())
    for model in (first, second):
        fxquant.change_bits(model, {"weight": {"bits": 4}})
    fxquant.damping(first).backward()  # type: ignore[no-untyped-call]
    assert torch.equal(second(x), first(x))
    held = [value for key, value in first.state_dict().items() if key.endswith("_mask")]
    assert all(torch.equal(a, b) for a, b in zip(held, masks, strict=True))


class Written(nn.Module):
    """A weight that is masked by hand, then turned; one whose parameters are zero; and one that is scaled."""

    mask: Tensor
    two: Tensor

    def __init__(self) -> None:
        super().__init__()
        self.a, self.b, self.c = (nn.Parameter(torch.randn(4, 4)) for _ in range(3))
        nn.init.zeros_(self.b)
        self.register_buffer("mask", torch.eye(4) == 0)
        self.register_buffer("two", torch.full((4, 1), 2.0))

    def forward(self, x: Tensor) -> Tensor:
        """(N, 4) to (N, 4)."""
        y = torch.relu(x @ self.a.masked_fill(self.mask, 0.0).roll(1, 0))
        z: Tensor = nn.functional.linear(y, self.b.t()) + nn.functional.linear(y, self.c * self.two)
        return z


def test_only_what_is_zero_whatever_the_parameters_are() -> None:
    torch.manual_seed(0)
    folded = FoldConstants()(fxquant.trace(Written().eval(), torch.randn(3, 4)))
    (found,) = [mask for masks in folded.meta[MASKS].values() for mask in masks]
    assert int(found.sum()) == 4 and torch.equal(found.sum(0), torch.ones(4))


def test_a_mask_that_fits_no_more_is_named() -> None:
    graph, _, x = masked(nn.Conv2d(3, 8, 3), nn.ReLU(), nn.Conv2d(8, 2, 3))
    pruned = fxquant.prune(graph, 0.5)
    with pytest.raises(TrainingError, match="is masked, and passes changed its shape"):
        fxquant.prepare_qat(pruned, None, [x], progress=False)
