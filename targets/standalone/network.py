"""An INTEGER graph as a program for a machine without a runtime, its memory planned, and its `run` as TIR.

    int32 <name>_layers(inputs..., outputs..., arena, constants)

The scratch memory of a kernel is a part of the arena that lives for one layer.
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
from fxquant.targets.program import Program
from fxquant.targets.tvm_api import I, IRBuilder, PrimFunc, T
from fxquant.targets.verify.verifier import verify

ALIGN = 16
GRAIN = Grain(align=ALIGN, slack=0)


@dataclass(frozen=True)
class Network:
    """A program whose calls have all their memory among their arguments, and the places of that memory."""

    name: str
    program: Program
    plan: Plan

    @property
    def ports(self) -> list[Tensor]:
        """Inputs, then outputs."""
        return [*self.program.inputs, *self.program.outputs]


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
    return {**found, f"{net.name}_layers": _layers(net, marked)}


def _layers(net: Network, marked: bool) -> PrimFunc:
    """The calls in order."""
    program, plan = net.program, net.plan
    with IRBuilder() as builder:
        with I.prim_func(s_tir=True):
            I.func_name(f"{net.name}_layers")
            pointers = {
                id(port.buffer): I.arg(f"port{i}", I.buffer((max(port.buffer.bytes, 1),), "uint8", align=1))
                for i, port in enumerate(net.ports)
            }
            regions = {
                "arena": I.arg("arena", I.buffer((max(plan.arena_bytes, 1),), "uint8", align=ALIGN)),
                "constant": I.arg("constants", I.buffer((max(plan.constant_bytes, 1),), "uint8", align=ALIGN)),
            }

            def address(argument: Tensor | Buffer) -> Any:
                buffer = argument.buffer if isinstance(argument, Tensor) else argument
                within = argument.byte_offset if isinstance(argument, Tensor) else 0
                if id(buffer) in pointers:
                    return T.address_of(pointers[id(buffer)][within])
                return T.address_of(regions[buffer.kind][plan.offset(buffer) + within])

            for layer, call in enumerate(program.calls):
                if marked:
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
