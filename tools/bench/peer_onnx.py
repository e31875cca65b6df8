"""ONNX Runtime: float32, and its own quantizers in the setting that is fastest on x86 (u8 activations, s8 weights)."""

from __future__ import annotations

import logging
import shutil
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxquant.tools.bench.networks import Network, Sample
    from fxquant.tools.bench.peers import Arrays, Job, Runner

_FILE = "model.onnx"
_OPSET = 17


def prepare(job: Job, variant: str) -> None:
    """Export, and quantize: `static` as QDQ per channel, `reduce_range` the same with 7-bit weights, `dynamic`."""
    target = job.folder / _FILE
    with _quiet():
        if variant == "float":
            shutil.copyfile(exported(job), target)
            return
        from onnxruntime import quantization as q

        ready = _preprocessed(job)
        if variant == "dynamic":
            q.quantize_dynamic(ready, target)
            return
        q.quantize_static(
            ready,
            target,
            _reader(job.calibration),
            quant_format=q.QuantFormat.QDQ,
            per_channel=True,
            reduce_range=variant == "reduce_range",
            activation_type=q.QuantType.QUInt8,
            weight_type=q.QuantType.QInt8,
        )


def load(folder: Path, _variant: str, _network: Network, threads: int) -> Runner:
    """A session on the CPU."""
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads, options.inter_op_num_threads = threads, 1
    options.log_severity_level = 3
    session = onnxruntime.InferenceSession(folder / _FILE, options, providers=["CPUExecutionProvider"])
    names = [port.name for port in session.get_inputs()]

    def run(arrays: Arrays) -> Arrays:
        result: Arrays = session.run(None, dict(zip(names, arrays, strict=True)))
        return result

    return run


def exported(job: Job) -> Path:
    """The float model as ONNX, batch 1, made once for all who need it."""
    import torch

    path = job.common / "float.onnx"
    if not path.exists():
        inputs = job.evaluation[0]
        names = [f"input{i}" for i in range(len(inputs))]
        # The exporter of TorchScript: the other one wants a package more.
        with _quiet():
            torch.onnx.export(job.model, inputs, str(path), dynamo=False, opset_version=_OPSET, input_names=names)
    return path


def _preprocessed(job: Job) -> Path:
    from onnxruntime.quantization.shape_inference import quant_pre_process

    path = job.common / "preprocessed.onnx"
    if not path.exists():
        quant_pre_process(exported(job), path)
    return path


def _reader(samples: list[Sample]) -> Any:
    from onnxruntime.quantization import CalibrationDataReader

    class Reader(CalibrationDataReader):  # type: ignore[misc]
        def __init__(self) -> None:
            self.left = iter(samples)

        def get_next(self) -> dict[str, Any] | None:
            sample = next(self.left, None)
            return None if sample is None else {f"input{i}": tensor.numpy() for i, tensor in enumerate(sample)}

    return Reader()


@contextmanager
def _quiet() -> Iterator[None]:
    logging.disable(logging.WARNING)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.disable(logging.NOTSET)
