"""The process that makes the files: the float model with its outputs, then what each peer makes of it."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import numpy as np

from fxquant.tools.bench import weights
from fxquant.tools.bench.networks import Network
from fxquant.tools.bench.peers import Job, Peer

SAMPLES = "samples.npz"


class Workshop:
    """Works on one network in one folder; torch is imported here and not in the parent."""

    def __init__(self, network: Network, folder: str, calibration: int, evaluation: int) -> None:
        self.network, self.folder = network, Path(folder)
        if not (self.folder / SAMPLES).exists():
            weights.keep(network.build(), self.folder)
        self.model = weights.restored(network, self.folder)
        self.calibration = network.calibration(calibration)
        self.evaluation = network.evaluation(evaluation)
        self._keep_samples()

    def describe(self) -> dict[str, Any]:
        """What the network is: shapes of its inputs, parameters, bytes in float."""
        return {
            "inputs": [list(tensor.shape) for tensor in self.evaluation[0]],
            "parameters": sum(p.numel() for p in self.model.parameters()),
            "float_bytes": weights.float_bytes(self.folder),
            "calibration_samples": len(self.calibration),
        }

    def prepare(self, peer: Peer) -> dict[str, Any]:
        """Let `peer` write its files; `artifact_bytes` and what it has to tell."""
        folder = self.folder / peer.name
        folder.mkdir(exist_ok=True)
        job = Job(self.network, self.model, self.calibration, self.evaluation, self.folder, folder)
        started = time.perf_counter()
        peer.prepare(job)
        seconds = time.perf_counter() - started
        size = sum(file.stat().st_size for file in folder.iterdir()) or weights.float_bytes(self.folder)
        return {"artifact_bytes": size, "prepare_seconds": seconds, **job.facts}

    def _keep_samples(self) -> None:
        import torch

        arrays: dict[str, np.ndarray[Any, Any]] = {}
        for number, sample in enumerate(self.evaluation):
            with torch.no_grad():
                result = self.model(*sample)
            outputs = result if isinstance(result, (tuple, list)) else [result]
            arrays |= {f"input_{number}_{i}": tensor.numpy() for i, tensor in enumerate(sample)}
            arrays |= {f"output_{number}_{i}": tensor.numpy() for i, tensor in enumerate(outputs)}
        np.savez(self.folder / SAMPLES, **arrays)  # type: ignore[arg-type]
