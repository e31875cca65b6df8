"""PyTorch in float32, eager; for images in the memory format that is faster here."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from fxquant.tools.bench.weights import restored

if TYPE_CHECKING:
    from torch import nn

    from fxquant.tools.bench.networks import Network
    from fxquant.tools.bench.peers import Arrays, Job, Runner

_TRIALS = 5


def prepare(_job: Job, _variant: str) -> None:
    """Nothing: eager PyTorch runs the model itself."""


def load(folder: Path, _variant: str, network: Network, threads: int) -> Runner:
    """The model with the weights that all peers have."""
    import torch

    torch.set_num_threads(threads)
    model = restored(network, folder.parent)
    samples = network.evaluation(1)[0]
    model = _faster(model, samples)

    def run(arrays: Arrays) -> Arrays:
        with torch.inference_mode():
            result = model(*(torch.from_numpy(array) for array in arrays))
        return [t.numpy() for t in (result if isinstance(result, (tuple, list)) else (result,))]

    return run


def _faster(model: nn.Module, inputs: tuple[Any, ...]) -> nn.Module:
    """`model`, with its weights channels-last if it takes images and runs faster so."""
    import copy

    import torch

    if inputs[0].ndim != 4:
        return model
    other = copy.deepcopy(model).to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    best = {id(m): min(_seconds(m, inputs) for _ in range(_TRIALS)) for m in (model, other)}
    return model if best[id(model)] <= best[id(other)] else other


def _seconds(model: nn.Module, inputs: tuple[Any, ...]) -> float:
    import torch

    started = time.perf_counter()
    with torch.inference_mode():
        model(*inputs)
    return time.perf_counter() - started
