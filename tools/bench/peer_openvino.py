"""OpenVINO: float32, and int8 through NNCF; both from the ONNX file."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING

from fxquant.tools.bench.peer_onnx import exported

if TYPE_CHECKING:
    from fxquant.tools.bench.networks import Network
    from fxquant.tools.bench.peers import Arrays, Job, Runner

_FILE = "model.xml"


def prepare(job: Job, variant: str) -> None:
    """Read the ONNX file, quantize it with NNCF's defaults if `variant` says so, write OpenVINO's own format."""
    import openvino

    model = openvino.Core().read_model(exported(job))
    if variant == "static":
        logging.getLogger("nncf").setLevel(logging.ERROR)
        import nncf

        samples = [{f"input{i}": tensor.numpy() for i, tensor in enumerate(s)} for s in job.calibration]
        model = nncf.quantize(model, nncf.Dataset(samples), subset_size=len(samples))
    openvino.save_model(model, job.folder / _FILE, compress_to_fp16=False)


def load(folder: Path, _variant: str, _network: Network, threads: int) -> Runner:
    """One stream, for latency."""
    import openvino

    core = openvino.Core()
    options = {"INFERENCE_NUM_THREADS": threads, "NUM_STREAMS": 1, "PERFORMANCE_HINT": "LATENCY"}
    request = core.compile_model(core.read_model(folder / _FILE), "CPU", options).create_infer_request()

    def run(arrays: Arrays) -> Arrays:
        return list(request.infer(arrays).values())

    return run
