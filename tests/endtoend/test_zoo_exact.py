"""Every network of the zoo at its small size: traced, quantized, compiled; identical integers in Python and code.

No pass up to OBSERVED changes what it computes.
"""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import fxquant
from tests import zoo
from tests.endtoend.finding import unfindable

# A network whose integers have nothing to do with the model would still be exact. Deep networks of random weights are
# chaotic, the more so the narrower: what their integers may lose is measured by what noise on the input does to the
# float model itself, a tenth of the input's spread, and 12 dB are enough. Accuracy is tested on real networks.
NOISE, MARGIN, ENOUGH = 0.1, 3.0, 12.0


@pytest.mark.parametrize("name", zoo.ZOO)
def test_python_and_compiled_agree(name: str) -> None:
    model = zoo.build(name, shallow=True)
    calibration = [zoo.inputs(name, 2, seed) for seed in (1, 2)]
    graph = fxquant.trace(model, calibration[0])
    assert graph.meta["fxq.batch"] == "dynamic"
    same = fxquant.SameResults(graph, zoo.inputs(name, 1, 1))
    quantized = fxquant.quantize(graph, calibration, progress=False, observe=same)
    if zoo.ZOO[name].convolutional:
        assert not [node.name for node in quantized.graph.nodes if node.meta.get("fxq.island")]
    # A batch that the graph never saw, and too few samples for the threads.
    batches = zoo.inputs(name, 3, 7), zoo.inputs(name, 1, 8)
    with torch.no_grad():
        real, expected = model(*batches[0]), [quantized(*x) for x in batches]
        shaken = model(*map(noisy, batches[0]))
    assert decibels(real, expected[0]) > min(ENOUGH, decibels(real, shaken) - MARGIN)
    with fxquant.compile(quantized, threads=2) as two, fxquant.CompiledModel(two.artifact, 1) as one:
        assert unfindable(graph, quantized, two.artifact) == []
        for compiled in (one, two):
            for x, wanted in zip(batches, expected, strict=True):
                found = compiled(*x)
                assert found.shape == wanted.shape and torch.equal(found, wanted)


def noisy(x: Tensor) -> Tensor:
    """The input with a little noise; tokens as they are."""
    generator = torch.Generator().manual_seed(9)
    return x + NOISE * x.std() * torch.randn(x.shape, generator=generator) if x.is_floating_point() else x


def decibels(real: Tensor, found: Tensor) -> float:
    """Signal to quantization noise."""
    noise = (real - found).double().pow(2).sum().clamp(min=1e-30)
    return float(10 * torch.log10(real.double().pow(2).sum() / noise))
