"""A target's own memory plan, and what each of its steps costs."""

from __future__ import annotations

from typing import Any

from torch import fx

from fxquant import targets
from fxquant.passes import IntegerPorts
from fxquant.target import Target
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.lowering import lower
from fxquant.targets.planner import HOSTED, Grain, Plan, lifetimes, plan_memory
from fxquant.targets.program import Call, Program
from fxquant.targets.standalone.network import GRAIN, network
from fxquant.tools.view.document import Memory, Step, Tenant


def memory_of(quantized: fx.GraphModule, target: str | Target) -> Memory:
    """Lower an INTEGER graph for a target, without making code. Raises TargetError, LoweringError."""
    found = targets.get(target)
    if found.form == "hosted":
        program = lower(quantized, found)
        return _memory(found.name, program, plan_memory(program), HOSTED)
    net = network(IntegerPorts()(quantized), found, "model")
    return _memory(found.name, net.program, net.plan, GRAIN)


def _memory(name: str, program: Program, plan: Plan, grain: Grain) -> Memory:
    first, last = lifetimes(program)
    arena = [b for b in program.buffers if b.kind == "arena"]
    tenants = tuple(
        Tenant(b.name, plan.offset(b), grain.size(b), first[id(b)], last[id(b)])
        for b in sorted(arena, key=lambda b: first[id(b)])
    )
    alive = [_reach(tenants, step) for step in range(len(program.calls))]
    steps = tuple(_step(program, call, alive[number]) for number, call in enumerate(program.calls))
    peak = max(range(len(alive)), key=alive.__getitem__, default=None)
    return Memory(name, plan.arena_bytes, plan.constant_bytes, peak, steps, tenants)


def _reach(tenants: tuple[Tenant, ...], step: int) -> int:
    """Bytes in use at a step; tensors that share memory in place count once."""
    places = sorted((t.offset, t.offset + t.bytes) for t in tenants if t.first <= step <= t.last)
    total = end = 0
    for start, stop in places:
        total += max(0, stop - max(start, end))
        end = max(end, stop)
    return total


def _step(program: Program, call: Call, alive: int) -> Step:
    constants = {id(b): b for b in map(_buffer, call.arguments) if b.kind == "constant"}
    facts: dict[str, Any] = call.facts
    kernel = str(facts.get("kernel", call.symbol.removeprefix("fxq_").rpartition("_")[0]))
    return Step(call.label, kernel, sum(b.bytes for b in constants.values()), alive, int(facts.get("macs", 0)))


def _buffer(argument: Tensor | Buffer) -> Buffer:
    return argument.buffer if isinstance(argument, Tensor) else argument
