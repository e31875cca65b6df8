"""An INTEGER graph as a program for a machine without a runtime, its memory planned, and its functions as TIR.

    void <name>_layers(inputs..., outputs..., [state], arena, constants)

The scratch memory of a kernel is a part of the arena that lives for one layer. A graph that trains on the device has
further functions beside `run`, over the same memory: `train_init`, which starts the state, and `train_step`.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Any

from torch import fx

from fxquant.target import Target
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.kernels.choosing import Choose, modelled
from fxquant.targets.lowering import lower
from fxquant.targets.planner import Grain, Plan, plan_memory
from fxquant.targets.program import Call, Program
from fxquant.targets.tvm_api import I, IRBuilder, PrimFunc, T
from fxquant.targets.verify.verifier import verify

ALIGN = 16
GRAIN = Grain(align=ALIGN, slack=0)


@dataclass(frozen=True)
class Entry:
    """A function of the interface, `<name>_<suffix>`: what it takes, and its calls in order.

    `ports` are its inputs, then its outputs; `label`, one of them, is given by value.
    """

    suffix: str
    calls: tuple[Call, ...]
    inputs: tuple[Tensor, ...]
    outputs: tuple[Tensor, ...]
    label: Tensor | None = None
    has_state: bool = False
    has_arena: bool = True

    @property
    def ports(self) -> tuple[Tensor, ...]:
        """Inputs, then outputs."""
        return (*self.inputs, *self.outputs)

    @property
    def regions(self) -> tuple[str, ...]:
        """Memory of the caller's that it works on, as parameters behind the ports."""
        return tuple(kind for kind, has in (("state", self.has_state), ("arena", self.has_arena)) if has)

    def symbol(self, name: str) -> str:
        """Of the function in C."""
        return f"{name}_{self.suffix}"

    def prefix(self, name: str) -> str:
        """Of the functions that it is made of."""
        return name if self.suffix == "run" else self.symbol(name)


@dataclass(frozen=True)
class Network:
    """A program whose calls have all their memory among their arguments, and the places of that memory."""

    name: str
    program: Program
    plan: Plan

    def region_bytes(self, kind: str) -> int:
        """Of the state or the arena."""
        return self.plan.state_bytes if kind == "state" else self.plan.arena_bytes

    @property
    def trains(self) -> bool:
        """Whether it has a state, and learns."""
        return bool(self.program.learning.states)

    @property
    def run(self) -> Entry:
        """What computes the outputs."""
        inputs = tuple(t for t in self.program.inputs if t is not self.program.learning.label)
        return Entry("run", tuple(_needed(self.program)), inputs, tuple(self.program.outputs), has_state=self.trains)

    @property
    def entries(self) -> tuple[Entry, ...]:
        """All functions of the interface."""
        if not self.trains:
            return (self.run,)
        starts = tuple(call for call in self.program.calls if "starts" in call.facts)
        rest = tuple(call for call in self.program.calls if "starts" not in call.facts)
        ports, label = (tuple(self.program.inputs), tuple(self.program.outputs)), self.program.learning.label
        return (
            self.run,
            Entry("train_init", starts, (), (), has_state=True, has_arena=False),
            Entry("train_step", rest, *ports, label, has_state=True),
        )


def _needed(program: Program) -> list[Call]:
    """The calls that the outputs take, in their order.

    What was proven of all calls holds of these: each of them reads what those before it wrote, and others only write
    where nobody reads any more.
    """
    if not program.learning.states:
        return program.calls
    needed, found = {id(tensor.buffer) for tensor in program.outputs}, []
    for call in reversed(program.calls):
        results = [t for t in (call.result, *call.others) if t is not None]
        if "starts" not in call.facts and any(id(t.buffer) in needed for t in results):
            found.append(call)
            needed |= {id(a.buffer if isinstance(a, Tensor) else a) for a in call.arguments}
    return found[::-1]


def network(module: fx.GraphModule, target: Target, name: str, choose: Choose = modelled) -> Network:
    """Lower, with the kernels that `choose` picks, and plan.

    Raises LoweringError for an operation without code, MemorySafetyError for a program that could touch memory that is
    not its own.
    """
    program = lower(module, target, choose)
    program.calls = [_with_scratch(program, call) for call in program.calls]
    plan = plan_memory(program, GRAIN)
    verify(program, plan, GRAIN)
    return Network(name, program, plan)


def _with_scratch(program: Program, call: Any) -> Any:
    kernel = program.kernels[call.symbol]
    if not kernel.scratch:
        return call
    scratch = Buffer(f"{call.label} scratch", "arena", kernel.scratch)
    return replace(call, arguments=(*call.arguments, scratch))


def functions(net: Network, *, marked: bool = False) -> dict[str, PrimFunc]:
    """Every function of the network by its C name; `marked`: `<name>_mark(layer)` is called before each layer."""
    found = {f"{net.name}_{symbol.removeprefix('fxq_')}": kernel.func for symbol, kernel in net.program.kernels.items()}
    layers = {f"{entry.prefix(net.name)}_layers": _layers(net, entry, marked) for entry in net.entries}
    return {**found, **layers}


def _layers(net: Network, entry: Entry, marked: bool) -> PrimFunc:
    """The calls in order; those of `run` are marked."""
    program, plan = net.program, net.plan
    with IRBuilder() as builder:
        with I.prim_func(s_tir=True):
            I.func_name(f"{entry.prefix(net.name)}_layers")
            pointers = {
                id(port.buffer): I.arg(f"port{i}", I.buffer((max(port.buffer.bytes, 1),), "uint8", align=1))
                for i, port in enumerate(entry.ports)
            }
            memory = [*((kind, kind, net.region_bytes(kind)) for kind in entry.regions)]
            memory.append(("constant", "constants", plan.constant_bytes))
            regions = {
                kind: I.arg(name, I.buffer((max(size, 1),), "uint8", align=ALIGN)) for kind, name, size in memory
            }

            def address(argument: Tensor | Buffer) -> Any:
                buffer = argument.buffer if isinstance(argument, Tensor) else argument
                within = argument.byte_offset if isinstance(argument, Tensor) else 0
                if id(buffer) in pointers:
                    return T.address_of(pointers[id(buffer)][within])
                return T.address_of(regions[buffer.kind][plan.offset(buffer) + within])

            for layer, call in enumerate(entry.calls):
                if marked and entry.suffix == "run":
                    I.evaluate(T.call_extern("void", f"{net.name}_mark", layer))
                symbol = f"{net.name}_{call.symbol.removeprefix('fxq_')}"
                arguments = [address(a) for a in call.arguments]
                tasks = program.kernels[call.symbol].tasks
                if tasks == 1:
                    I.evaluate(T.call_extern("void", symbol, 0, *arguments))
                    continue
                with I.serial(0, tasks) as task:
                    I.evaluate(T.call_extern("void", symbol, task, *arguments))
    return builder.get()
