"""The whole road in under a minute: `python -m pytest -n 0 tests/endtoend/test_smoke.py`, before anything longer."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn

import fxquant
from fxquant import targets
from fxquant.tools.emulate import emulate
from fxquant.tools.emulate.programs import missing


class Net(nn.Module):
    """A convolution, a residual, a depthwise layer, attention and a classifier."""

    def __init__(self) -> None:
        super().__init__()
        self.stem, self.deep = nn.Conv2d(3, 16, 3, padding=1), nn.Conv2d(16, 16, 3, padding=1, groups=16)
        self.norm, self.attend = nn.LayerNorm(16), nn.MultiheadAttention(16, 2, batch_first=True)
        self.last = nn.Linear(16, 5)

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Images (N, 3, 8, 8) to (N, 5)."""
        y = torch.relu(self.stem(x))
        tokens = self.norm((y + self.deep(y)).flatten(2).transpose(1, 2))
        found: torch.Tensor = self.last(self.attend(tokens, tokens, tokens)[0].mean(1))
        return found


def test_traced_quantized_compiled_saved_loaded_and_exported(tmp_path: Path) -> None:
    torch.manual_seed(0)
    data = [torch.randn(4, 3, 8, 8) for _ in range(2)]
    graph = fxquant.trace(Net().eval(), data[0])
    quantized = fxquant.quantize(graph, data, progress=False)
    report = fxquant.report(quantized, graph, data[0])
    assert report.is_fully_integer and report.accuracy is not None
    with torch.no_grad():
        expected = quantized(data[1])
    fxquant.save_graph(quantized, tmp_path / "net.fxgraph")
    with fxquant.compile(fxquant.load_graph(tmp_path / "net.fxgraph"), threads=2, against_float=False) as net:
        assert torch.equal(net(data[1]), expected)
        net.save(tmp_path / "net.fxq")
    with fxquant.load(tmp_path / "net.fxq", threads=1) as again:
        assert np.array_equal(again(data[1].numpy()), expected.numpy())
    if reason := missing(targets.get("cortex-m4")):
        pytest.skip(f"all but the microcontroller: {reason}")
    made = fxquant.export(quantized, "cortex-m4", tmp_path / "firmware", measure=False)
    assert emulate(made.files, made.name, made.report, made.target).wrong == 0
