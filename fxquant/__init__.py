"""fxquant: integer quantization passes over `torch.fx` graphs, compiled by Apache TVM to exact int8 code.

    graph     = fxquant.trace(model, (x,))
    quantized = fxquant.quantize(graph, calibration=loader)
    net       = fxquant.compile(quantized, target="native")
    y         = net(x)

Names are imported on first use: a process that only loads and runs a compiled model imports neither torch nor TVM.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from fxquant.api import (
        change_bits,
        compile,
        convert,
        convert_pipeline,
        export,
        export_program,
        integer_ports,
        load_graph,
        prepare,
        prepare_pipeline,
        prepare_qat,
        quantize,
        save_graph,
        train_on_device,
    )
    from fxquant.calibration import calibrate, merge_ranks
    from fxquant.capture import trace
    from fxquant.errors import FxquantError
    from fxquant.passmanager import Pass, Pipeline, as_pass
    from fxquant.recipe import Recipe, Rule
    from fxquant.runtime.model import CompiledModel, load
    from fxquant.same_results import SameResults
    from fxquant.scheme import Scheme
    from fxquant.stage import Stage
    from fxquant.target import Target
    from fxquant.tools.compare.compare import compare
    from fxquant.tools.compare.recover import recover
    from fxquant.tools.prune import prune, pruning_report
    from fxquant.tools.report import report, why
    from fxquant.tools.search.search import search
    from fxquant.tools.search.sensitivity import sensitivity
    from fxquant.tools.view.recorder import Recorder
    from fxquant.tools.view.view import view
    from fxquant.training import Distillation, TrainingGraph, damping, distill, freeze_norms, qat_parameters

    __version__: str

_HOME = {
    "CompiledModel": "fxquant.runtime.model",
    "Distillation": "fxquant.training",
    "FxquantError": "fxquant.errors",
    "Pass": "fxquant.passmanager",
    "Pipeline": "fxquant.passmanager",
    "Recipe": "fxquant.recipe",
    "Recorder": "fxquant.tools.view.recorder",
    "Rule": "fxquant.recipe",
    "SameResults": "fxquant.same_results",
    "Scheme": "fxquant.scheme",
    "Stage": "fxquant.stage",
    "Target": "fxquant.target",
    "TrainingGraph": "fxquant.training",
    "as_pass": "fxquant.passmanager",
    "calibrate": "fxquant.calibration",
    "change_bits": "fxquant.api",
    "compare": "fxquant.tools.compare.compare",
    "compile": "fxquant.api",
    "convert": "fxquant.api",
    "convert_pipeline": "fxquant.api",
    "damping": "fxquant.training",
    "distill": "fxquant.training",
    "export": "fxquant.api",
    "export_program": "fxquant.api",
    "freeze_norms": "fxquant.training",
    "integer_ports": "fxquant.api",
    "load": "fxquant.runtime.model",
    "load_graph": "fxquant.api",
    "merge_ranks": "fxquant.calibration",
    "prepare": "fxquant.api",
    "prepare_pipeline": "fxquant.api",
    "prepare_qat": "fxquant.api",
    "prune": "fxquant.tools.prune",
    "pruning_report": "fxquant.tools.prune",
    "qat_parameters": "fxquant.training",
    "quantize": "fxquant.api",
    "recover": "fxquant.tools.compare.recover",
    "report": "fxquant.tools.report",
    "save_graph": "fxquant.api",
    "search": "fxquant.tools.search.search",
    "sensitivity": "fxquant.tools.search.sensitivity",
    "trace": "fxquant.capture",
    "train_on_device": "fxquant.api",
    "view": "fxquant.tools.view.view",
    "why": "fxquant.tools.report",
}

__all__ = [
    "CompiledModel",
    "Distillation",
    "FxquantError",
    "Pass",
    "Pipeline",
    "Recipe",
    "Recorder",
    "Rule",
    "SameResults",
    "Scheme",
    "Stage",
    "Target",
    "TrainingGraph",
    "as_pass",
    "calibrate",
    "change_bits",
    "compare",
    "compile",
    "convert",
    "convert_pipeline",
    "damping",
    "distill",
    "export",
    "export_program",
    "freeze_norms",
    "integer_ports",
    "load",
    "load_graph",
    "merge_ranks",
    "prepare",
    "prepare_pipeline",
    "prepare_qat",
    "prune",
    "pruning_report",
    "qat_parameters",
    "quantize",
    "recover",
    "report",
    "save_graph",
    "search",
    "sensitivity",
    "trace",
    "train_on_device",
    "view",
    "why",
]


def __getattr__(name: str) -> Any:
    if name == "__version__":
        return _version()
    if name not in _HOME:
        raise AttributeError(f"module 'fxquant' has no attribute {name!r}")
    return getattr(import_module(_HOME[name]), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *_HOME])


def _version() -> str:
    # Reading it takes longer than everything else that importing this package does.
    from importlib.metadata import PackageNotFoundError, version

    try:
        return version("fxquant")
    except PackageNotFoundError:  # running from a clone that was never installed
        return "0+unknown"
