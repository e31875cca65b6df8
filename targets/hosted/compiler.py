"""From an INTEGER graph to a compiled model: lower, plan memory, generate code, pack the artifact."""

from __future__ import annotations

from dataclasses import replace
from typing import Any

import torch
from torch import fx

from fxquant.errors import StageError
from fxquant.runtime.artifact import Artifact, Port
from fxquant.stage import Stage, stage_of
from fxquant.target import Target
from fxquant.targets import tvm_api
from fxquant.targets.batch import is_batched, require_independent_samples
from fxquant.targets.buffers import Tensor
from fxquant.targets.hosted.network import SYNC_PER_LAYER, object_code
from fxquant.targets.kernels.choosing import Choose, modelled
from fxquant.targets.lowering import lower
from fxquant.targets.planner import plan_memory, weight_blob
from fxquant.targets.program import Program
from fxquant.targets.verify.verifier import verify


def compile_graph(module: fx.GraphModule, target: Target, name: str, choose: Choose = modelled) -> Artifact:
    """Compile for a machine with fxquant's runtime; `choose` picks the kernels of convolutions and linear layers.

    Raises StageError for a graph that is not INTEGER, TargetError for a machine without an OS and LoweringError for an
    operation without code.
    """
    if stage_of(module) is not Stage.INTEGER:
        raise StageError(f"compile needs an INTEGER graph, this one is {stage_of(module)}: quantize it first")
    target = target.hosted
    batched = is_batched(module)
    if batched:
        require_independent_samples(module)
    return build_artifact(lower(module, target, choose), target, name, batched)


def build_artifact(program: Program, target: Target, name: str, batched: bool) -> Artifact:
    """Memory, machine code and report of a program; `batched` if it is one sample of any number.

    Raises MemorySafetyError for a program that could touch memory that is not its own.
    """
    report, plan = _report(program), plan_memory(program)
    weights = weight_blob(program, plan)
    verify(program, plan)
    described = Artifact(
        name=name,
        target=target.to_json(),
        cpu_features=target.cpu_features,
        machine=target.machine,
        versions=_versions(),
        inputs=tuple(_port(t) for t in program.inputs),
        outputs=tuple(_port(t) for t in program.outputs),
        index_checks=tuple(check for check, _ in program.checks),
        batched=batched,
        arena_bytes=plan.arena_bytes,
        scratch_bytes=program.scratch_bytes,
        sync_words=SYNC_PER_LAYER * max(1, len(program.calls)),
        code=b"",
        weights=weights,
        resident_bytes=plan.resident_bytes,
        report=report,
    )
    return replace(described, code=object_code(program, plan, target, described.needs))


def _versions() -> dict[str, str]:
    """Versions that the code depends on."""
    from importlib.metadata import version

    return {"fxquant": version("fxquant"), "torch": torch.__version__, "tvm": tvm_api.version}


def _port(tensor: Tensor) -> Port:
    return Port(tensor.buffer.name, tensor.spec.dtype, tensor.shape)


def _report(program: Program) -> dict[str, Any]:
    layers = [
        {
            "name": call.label,
            "kernel": call.symbol,
            "tasks": program.kernels[call.symbol].tasks,
            "computes": list(program.layers.get(call.label, ())),
            **call.facts,
        }
        for call in program.calls
    ]
    return {"layers": layers, "kernels": len(program.kernels)}
