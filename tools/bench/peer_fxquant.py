"""fxquant itself: quantized and compiled for this machine, checked against the integer graph, run from its artifact."""

from __future__ import annotations

import time
from pathlib import Path
from typing import TYPE_CHECKING

from fxquant.runtime.model import load as load_model

if TYPE_CHECKING:
    from fxquant.tools.bench.networks import Network
    from fxquant.tools.bench.peers import Arrays, Job, Runner

_FILE = "model.fxq"


def prepare(job: Job, variant: str) -> None:
    """Trace, quantize by the recipe called `variant`, compile.

    `exact` in the facts says whether Python and compiled outputs are identical.
    """
    import torch

    import fxquant

    started = time.perf_counter()
    graph = fxquant.trace(job.model, job.evaluation[0])
    quantized = fxquant.quantize(graph, job.calibration, recipe=variant, progress=False)
    done = time.perf_counter()
    with fxquant.compile(quantized, name=job.network.name) as net:
        job.facts["quantize_seconds"] = done - started
        job.facts["compile_seconds"] = time.perf_counter() - done
        net.save(job.folder / _FILE)
        equal = True
        for sample in job.evaluation:
            with torch.no_grad():
                expected, got = quantized(*sample), net(*sample)
            pairs = zip(*(x if isinstance(x, (tuple, list)) else (x,) for x in (expected, got)), strict=True)
            equal = equal and all(torch.equal(a, b) for a, b in pairs)
    job.facts["exact"] = equal


def load(folder: Path, _variant: str, _network: Network, threads: int) -> Runner:
    """The artifact, without torch and TVM."""
    model = load_model(folder / _FILE, threads)

    def run(arrays: Arrays) -> Arrays:
        result = model(*arrays)
        return list(result) if isinstance(result, tuple) else [result]

    return run
