"""A Program as object code: the `run` function that calls the kernels, layer after layer, on planned memory."""

from __future__ import annotations

from typing import Any

from fxquant.runtime.needs import Needs
from fxquant.target import Target
from fxquant.targets.buffers import Buffer, Tensor
from fxquant.targets.hosted.threads import spmd_functions, tasks
from fxquant.targets.object_cache import object_code_of
from fxquant.targets.planner import Plan
from fxquant.targets.program import Call, Program
from fxquant.targets.tvm_api import I, IRBuilder, PrimFunc, T

# Two words per layer: the next task, and how many are done.
SYNC_PER_LAYER = 2


def object_code(program: Program, plan: Plan, target: Target, needs: Needs) -> bytes:
    """Compile all kernels, `run`, `prepare` if needed and the thread team into one relocatable object.

    `needs`, the memory that these functions are made for, stands in the object as well, for the loader to compare.
    """
    functions: dict[str, PrimFunc] = {symbol: kernel.func for symbol, kernel in program.kernels.items()}
    functions["run"] = run_function(program, plan)
    if plan.expanded:
        functions["prepare"] = prepare_function(program, plan)
    functions.update(spmd_functions(needs, target.machine))
    return object_code_of(functions, target.tvm)


def run_function(program: Program, plan: Plan) -> PrimFunc:
    """`int run(tid, threads, sync, arena, scratch, weights, ports...)`: one sample; 0 when done."""
    with IRBuilder() as builder:
        with I.prim_func(s_tir=True):
            I.func_name("run")
            I.arg("tid", I.int32())
            I.arg("threads", I.int32())
            sync = I.arg("sync", I.buffer((max(1, SYNC_PER_LAYER * len(program.calls)),), "int32"))
            regions = {
                "arena": I.arg("arena", I.buffer((max(plan.arena_bytes, 1),), "uint8", align=64)),
                "scratch": I.arg("scratch", I.buffer((max(program.scratch_bytes, 1),), "uint8", align=64)),
                "constant": I.arg("weights", I.buffer((max(plan.constant_bytes, 1),), "uint8", align=64)),
            }
            pointers = {
                id(port.buffer): I.arg(f"port{i}", I.buffer((max(port.buffer.bytes, 1),), "uint8"))
                for i, port in enumerate(program.ports)
            }

            def address(argument: Tensor | Buffer) -> Any:
                buffer = argument.buffer if isinstance(argument, Tensor) else argument
                within = argument.byte_offset if isinstance(argument, Tensor) else 0
                if id(buffer) in pointers:
                    return T.address_of(pointers[id(buffer)][within])
                return T.address_of(regions[buffer.kind][plan.offset(buffer) + within])

            for layer, call in enumerate(program.calls):
                _layer(program, call, layer, sync, regions["scratch"], address)
    return builder.get()


def _layer(program: Program, call: Call, layer: int, sync: Any, scratch: Any, address: Any) -> None:
    kernel = program.kernels[call.symbol]
    arguments = [address(a) for a in call.arguments]
    if kernel.scratch:
        arguments.append(T.address_of(scratch[0]))
    with tasks(sync, layer, kernel.tasks) as task:
        I.evaluate(T.call_extern("void", call.symbol, task, *arguments))


def prepare_function(program: Program, plan: Plan) -> PrimFunc:
    """`void prepare(stored, resident)`: the constants as runs want them, from those of the file."""
    with IRBuilder() as builder:
        with I.prim_func(s_tir=True):
            I.func_name("prepare")
            stored = I.arg("stored", I.buffer((plan.weight_bytes,), "uint8", align=1))
            resident = I.arg("resident", I.buffer((plan.resident_bytes,), "uint8", align=64))
            ends = T.address_of(resident[0]), T.address_of(stored[0])
            I.evaluate(T.call_extern("handle", "memcpy", *ends, T.uint64(plan.plain_bytes)))
            for buffer, origin in plan.expanded:
                source = T.address_of(stored[plan.offset(origin.stored)])
                with I.serial(0, program.kernels[origin.symbol].tasks) as task:
                    target = T.address_of(resident[plan.offset(buffer)])
                    I.evaluate(T.call_extern("void", origin.symbol, task, source, target))
    return builder.get()
