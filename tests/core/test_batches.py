"""Loaders that give more than inputs: told at once, and turned into inputs by a function of the user's."""

from __future__ import annotations

import re
from collections.abc import Iterator
from typing import Any

import pytest
import torch
from torch import Tensor, fx, nn

import fxquant as fxq
from fxquant.errors import CalibrationError, TraceError

torch.manual_seed(0)
LOADER = [(torch.randn(4, 3), torch.arange(4)) for _ in range(3)]
IMAGES = [image for image, _ in LOADER]


def first(batch: tuple[Tensor, Tensor]) -> Tensor:
    return batch[0]


@pytest.fixture(scope="module")
def graph() -> fx.GraphModule:
    torch.manual_seed(1)
    return fxq.trace(nn.Sequential(nn.Linear(3, 5), nn.ReLU(), nn.Linear(5, 2)).eval(), IMAGES[0])


def test_labels_are_told_as_what_they_are(graph: fx.GraphModule) -> None:
    with pytest.raises(CalibrationError, match=re.escape("transform=lambda batch: batch[0]")):
        fxq.quantize(graph, LOADER)
    with pytest.raises(TraceError, match=re.escape("give the image alone: batch[0]")):
        fxq.trace(nn.Linear(3, 2), LOADER[0])


@pytest.mark.parametrize("inputs", [{"y": IMAGES[0]}, (), {"input": IMAGES[0], "more": IMAGES[0]}])
def test_an_example_that_forward_does_not_take_is_refused_with_its_signature(inputs: Any) -> None:
    with pytest.raises(TraceError, match=r"forward\(input: .*Linear"):
        fxq.trace(nn.Linear(3, 2), inputs)


def test_a_transform_serves_every_step(graph: fx.GraphModule) -> None:
    plain = fxq.quantize(graph, IMAGES, progress=False)
    quantized = fxq.quantize(graph, LOADER, transform=first, progress=False)
    assert torch.equal(plain(IMAGES[0]), quantized(IMAGES[0]))
    observed = fxq.calibrate(fxq.prepare(graph), (pair for pair in LOADER), transform=first, progress=False)
    assert torch.equal(plain(IMAGES[0]), fxq.convert(observed)(IMAGES[0]))
    found = fxq.compare(graph, quantized, LOADER, transform=first, progress=False)
    assert found.output_db == fxq.compare(graph, plain, IMAGES, progress=False).output_db
    assert found.samples == 12
    recovery = fxq.recover(graph, LOADER, LOADER, found, transform=first, goal=0.0, progress=False)
    assert recovery.layers == ()


def test_a_generator_behind_a_transform_is_still_used_up_after_one_turn(graph: fx.GraphModule) -> None:
    def once() -> Iterator[Any]:
        yield from LOADER

    quantized = fxq.quantize(graph, LOADER, transform=first, progress=False)
    found = fxq.compare(graph, quantized, once(), transform=first, progress=False)
    with pytest.raises(CalibrationError, match="calibration is a generator"):
        fxq.recover(graph, once(), LOADER, found, transform=first, progress=False)


def test_a_transform_that_fails_is_blamed_with_the_batch(graph: fx.GraphModule) -> None:
    with pytest.raises(CalibrationError, match=r"transform failed on input 0, a tuple of \(Tensor, Tensor\): KeyError"):
        fxq.quantize(graph, LOADER, transform=lambda batch: dict(x=batch)["image"])
    with pytest.raises(CalibrationError, match="transform must be a function of one batch, not 0"):
        fxq.quantize(graph, LOADER, transform=0)  # type: ignore[arg-type]
