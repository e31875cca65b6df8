"""LiteRT with XNNPACK: float32 by litert-torch, and int8 by its quantizer, static and dynamic; float at both ends."""

from __future__ import annotations

import io
import logging
import os
from contextlib import redirect_stdout
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxquant.tools.bench.networks import Network
    from fxquant.tools.bench.peers import Arrays, Job, Runner

_FILE = "model.tflite"


def prepare(job: Job, variant: str) -> None:
    """Convert, once for all, and quantize if `variant` says so."""
    # Its tools print to where our results go.
    with redirect_stdout(io.StringIO()):
        float_file = _converted(job)
        if variant == "float":
            (job.folder / _FILE).write_bytes(float_file.read_bytes())
        else:
            _quantize(job, float_file, variant == "static")


def _quantize(job: Job, float_file: Path, is_static: bool) -> None:
    from ai_edge_quantizer import quantizer, recipe

    made = quantizer.Quantizer(str(float_file), recipe.static_wi8_ai8() if is_static else recipe.dynamic_wi8_afp32())
    if is_static:
        _leave_ends(made)
    ranges = made.calibrate(_samples(job, float_file)) if is_static else None
    made.quantize(ranges).export_model(str(job.folder / _FILE))


def _leave_ends(made: Any) -> None:
    """Inputs and outputs stay float, as everybody's do."""
    from ai_edge_quantizer import algorithm_manager, qtyping

    for end in (qtyping.TFLOperationName.INPUT, qtyping.TFLOperationName.OUTPUT):
        made.update_quantization_recipe(".*", end, algorithm_key=algorithm_manager.AlgorithmName.NO_QUANTIZE)


def _samples(job: Job, file: Path) -> dict[str, list[dict[str, Any]]]:
    """Calibration samples by the names of the inputs, for the only signature."""
    from ai_edge_litert.interpreter import Interpreter

    ((signature, ports),) = Interpreter(str(file)).get_signature_list().items()
    names = ports["inputs"]
    return {signature: [{k: t.numpy() for k, t in zip(names, s, strict=True)} for s in job.calibration]}


def _converted(job: Job) -> Path:
    """The float model, made once for all variants."""
    path = job.common / "float.tflite"
    if not path.exists():
        os.environ.setdefault("TF_CPP_MIN_LOG_LEVEL", "3")
        logging.disable(logging.WARNING)
        import litert_torch

        litert_torch.convert(job.model, job.evaluation[0]).export(str(path))
    return path


def load(folder: Path, _variant: str, _network: Network, threads: int) -> Runner:
    """An interpreter with its default delegate."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(str(folder / _FILE), num_threads=threads)
    interpreter.allocate_tensors()
    # Inputs are numbered as in the signature: args_0, args_1, ...
    entering = [d["index"] for d in sorted(interpreter.get_input_details(), key=lambda d: str(d["name"]))]
    leaving = [d["index"] for d in interpreter.get_output_details()]

    def run(arrays: Arrays) -> Arrays:
        for index, array in zip(entering, arrays, strict=True):
            interpreter.set_tensor(index, array)
        interpreter.invoke()
        return [interpreter.get_tensor(index) for index in leaving]

    return run
