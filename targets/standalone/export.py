"""From an INTEGER graph to a folder of C: lower, plan, generate, check, and only then write."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from hashlib import sha256
from typing import Any

from torch import fx

from fxquant.errors import LoweringError, TargetError
from fxquant.plan import plan_of
from fxquant.source import describe
from fxquant.target import Target
from fxquant.targets.batch import is_batched, require_independent_samples
from fxquant.targets.kernels.choosing import Choose, modelled
from fxquant.targets.planner import weight_blob
from fxquant.targets.standalone.archive import archive
from fxquant.targets.standalone.c_source import c_source
from fxquant.targets.standalone.check import ObjectFacts, examine, require_self_contained
from fxquant.targets.standalone.code import object_file
from fxquant.targets.standalone.cpu import required_features
from fxquant.targets.standalone.folder import render
from fxquant.targets.standalone.golden import golden, lesson
from fxquant.targets.standalone.header import PortFacts, c_name, parameters, port_facts
from fxquant.targets.standalone.linked import linked
from fxquant.targets.standalone.network import ALIGN, Network, network
from fxquant.targets.standalone.status import LEARNING, Status
from fxquant.targets.standalone.summary import bits_of_weights, summary

VECTORS, STEPS = 2, 3
# Arm's unwind tables name it where a function is called that might throw, as any unknown one: the mark.
_UNWIND = "__aeabi_unwind_cpp_pr0"


@dataclass(frozen=True)
class Standalone:
    """A model as files by name; `report` is the content of report.json."""

    name: str
    target: Target
    files: Mapping[str, str | bytes]
    report: Mapping[str, Any]


def standalone(
    module: fx.GraphModule,
    target: Target,
    name: str,
    *,
    sources: bool = False,
    marked: bool = False,
    choose: Choose = modelled,
) -> Standalone:
    """The files of a graph with integer ports (see the pass IntegerPorts).

    `sources`: C sources in place of a library; `marked`: the code calls `<name>_mark(layer)` before each layer;
    `choose`: the kernels' tiles.
    Raises LoweringError, TargetError, InputError for a name that C does not take, ObjectCodeError for code that is not
    self-contained.
    """
    if target.form == "hosted":
        raise TargetError(
            f"{target.name} code runs under fxquant's runtime: use fxquant.compile, or one of {_others()}"
        )
    _require_integers(module)
    form = "sources" if sources else target.form
    # C has no word for a core's own instructions.
    net = network(module, replace(target, isa="scalar") if form == "sources" else target, c_name(name), choose)
    inputs, outputs = port_facts(module, net)
    ports = [port for port, tensor in zip(inputs, net.program.inputs, strict=True) if tensor in net.run.inputs]
    code, found = _code(net, target, form, marked)
    facts = {
        "name": name, "target": target.name, "version": _version(), "form": form, "align": ALIGN,
        "digest": _digest(net, code), "arena_bytes": net.plan.arena_bytes, "constant_bytes": net.plan.constant_bytes,
        "weights": ", ".join(bits_of_weights(net)), "inputs": ports, "outputs": outputs, "library": next(iter(code)),
        "parameters": parameters(net.run, [port.label for port in (*ports, *outputs)]),
        "statuses": [s for s in Status if net.trains or s not in LEARNING],
        "needs": required_features(target) if form == "shared" else (),
        "training": _training(net, [port.label for port in (*inputs, *outputs)]),
    }  # fmt: skip
    told = summary(net, target, facts, found)
    files: dict[str, str | bytes] = {
        **code,
        f"{name}.h": render("model.h.j2", facts),
        f"{name}_selftest.c": render("selftest.c.j2", {**facts, **_vectors(module, net, inputs, outputs)}),
        "main.c": render("main.c.j2", facts),
        "CMakeLists.txt": render("CMakeLists.txt.j2", facts),
        "report.json": told.text,
    }
    if form == "shared":
        files[f"{name}.py"] = render("loader.py.j2", facts)
    return Standalone(name, target, files, told.data)


def _training(net: Network, labels: list[str]) -> dict[str, Any] | None:
    """What a caller must know of a network that trains."""
    if not net.trains:
        return None
    _, init, step = net.entries
    return {
        "state_bytes": net.plan.state_bytes,
        "classes": net.program.learning.classes,
        "tensors": [
            {"name": name, "dtype": t.spec.dtype, "shape": t.shape, "offset": net.plan.offset(t.buffer)}
            for name, t in net.program.learning.states.items()
        ],
        "init": parameters(init),
        "step": parameters(step, labels),
        # Known where the model was run: see fxquant.tools.emulate.measured.
        "instructions": None,
    }


def _vectors(module: fx.GraphModule, net: Network, inputs: list[PortFacts], outputs: list[PortFacts]) -> dict[str, Any]:
    """Golden vectors for the self-test: runs, or steps of training."""
    if net.trains:
        return {"vectors": (), "lesson": lesson(module, net, inputs, outputs, STEPS)}
    return {"vectors": golden(module, inputs, outputs, VECTORS), "lesson": None}


def _others() -> str:
    from fxquant.targets import TARGETS

    return ", ".join(name for name, target in TARGETS.items() if target.form != "hosted")


def _require_integers(module: fx.GraphModule) -> None:
    """Standalone code has no floating point: name the operations that stayed float, and why."""
    islands = [n for n in module.graph.nodes if n.meta.get("fxq.island")]
    if islands:
        told = "; ".join(f"{describe(n)}: {plan.reason}" if (plan := plan_of(n)) else describe(n) for n in islands)
        raise LoweringError(f"standalone code computes no floating point, and these operations stayed float: {told}")
    if is_batched(module):
        require_independent_samples(module)


def _code(net: Network, target: Target, form: str, marked: bool) -> tuple[dict[str, str | bytes], ObjectFacts | None]:
    if form == "sources":
        return {f"{net.name}.c": c_source(net, marked=marked)}, None
    data = object_file(net, target, asks_cpu=form == "shared", marked=marked)
    facts = examine(data)
    if form == "shared":
        return {f"lib{net.name}.so": linked(data, net.name, target)}, facts
    require_self_contained(net.name, facts, *((f"{net.name}_mark", _UNWIND) if marked else ()))
    return {f"lib{net.name}.a": archive("network.o", data, sorted(facts.exported))}, facts


def _digest(net: Network, code: Mapping[str, str | bytes]) -> str:
    """Names this code and these weights, so that a device can tell which model it holds."""
    content = b"".join(c.encode() if isinstance(c, str) else c for c in code.values())
    return sha256(content + weight_blob(net.program, net.plan)).hexdigest()[:12]


def _version() -> str:
    from importlib.metadata import version

    return version("fxquant")


__all__ = ["PortFacts", "Standalone", "standalone"]
