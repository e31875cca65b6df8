"""report.json: what a standalone model needs before it is flashed: flash, arena, MACs and constants by layer."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any

from fxquant.target import Target
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.planner import lifetimes
from fxquant.targets.program import Call
from fxquant.targets.standalone.check import ObjectFacts
from fxquant.targets.standalone.network import GRAIN, Network


@dataclass(frozen=True)
class Summary:
    """The report as data, and as the text of report.json."""

    data: dict[str, Any]

    @property
    def text(self) -> str:
        """JSON."""
        return json.dumps(self.data, indent=1) + "\n"


def summary(net: Network, target: Target, facts: Mapping[str, Any], found: ObjectFacts | None) -> Summary:
    """The report of a network; code sizes are known where machine code was made."""
    numbers = {id(call): number for number, call in enumerate(net.program.calls)}
    layers = [_layer(net, numbers[id(call)], call, found) for call in net.run.calls]
    code = found.code if found else None
    data = {
        "name": net.name,
        "target": target.name,
        "form": facts["form"],
        "version": facts["digest"],
        "flash_bytes": None if found is None else found.code + found.constants,
        "code_bytes": code,
        "constant_bytes": net.plan.constant_bytes,
        "arena_bytes": net.plan.arena_bytes,
        # These two are known where the model was run: see fxquant.tools.emulate.measured.
        "stack_bytes": None,
        "instructions": None,
        "macs": sum(layer["macs"] for layer in layers),
        "kernels": len(net.program.kernels),
        "inputs": [asdict(port) for port in facts["inputs"]],
        "outputs": [asdict(port) for port in facts["outputs"]],
        "layers": layers,
        "training": facts["training"],
    }
    # As a file would give it back: lists for tuples.
    return Summary(json.loads(json.dumps(data)))


def _layer(net: Network, number: int, call: Call, found: ObjectFacts | None) -> dict[str, Any]:
    """A layer: its kernel, MACs, own constants, and the arena that is in use while it runs."""
    symbol = f"{net.name}_{call.symbol.removeprefix('fxq_')}"
    size = next((s for name, s in found.functions.items() if name == symbol), None) if found else None
    constants = {id(b): b.bytes for b in map(_buffer, call.arguments) if b.kind == "constant"}
    return {
        "name": call.label,
        "computes": net.program.layers.get(call.label, ()),
        "kernel": call.facts.get("kernel", call.symbol.removeprefix("fxq_").rpartition("_")[0]),
        "declined": call.facts.get("declined", []),
        "tile": call.facts.get("tile"),
        # None where a layer has no weights, or such that are read as they are in the graph.
        "weight_bits": call.facts.get("weight_bits"),
        "function": symbol,
        "code_bytes": size,
        "macs": int(call.facts.get("macs", 0)),
        "instructions": None,
        "constant_bytes": sum(constants.values()),
        "arena_bytes": arena_in_use(net, number),
    }


def bits_of_weights(net: Network) -> list[str]:
    """How many layers have weights of how many bits in flash, fewest first: "4 bits in 3 layers"."""
    layers = {(call.label, call.facts["weight_bits"]) for call in net.run.calls if "weight_bits" in call.facts}
    found = Counter(bits for _, bits in layers)
    return [f"{bits} bits in {count} layer{'s' * (count != 1)}" for bits, count in sorted(found.items())]


def arena_in_use(net: Network, number: int) -> int:
    """The end of the highest buffer that lives during layer `number`."""
    first, last = lifetimes(net.program)
    alive = (
        b for b in net.program.buffers if b.kind == "arena" and first[id(b)] <= number <= last[id(b)]
    )  # fmt: skip
    return max((net.plan.offset(b) + GRAIN.size(b) for b in alive), default=0)


def _buffer(argument: Tensor | Buffer) -> Buffer:
    return argument.buffer if isinstance(argument, Tensor) else argument
