"""Machine code of a network: kernels, constants, and `int <name>_run(inputs..., outputs..., arena)` in one object.

Nothing but the C library's memcpy, memset and memmove and the compiler's own helpers is left to link. Constants are
read-only data: on a microcontroller they stay in flash.
"""

from __future__ import annotations

from fxquant.target import Target
from fxquant.targets.object_cache import object_code_of
from fxquant.targets.planner import weight_blob
from fxquant.targets.standalone.header import alignments
from fxquant.targets.standalone.network import ALIGN, Network, functions
from fxquant.targets.standalone.status import Status, cpu_test_ir, pointer_test_ir
from fxquant.targets.standalone.symbols import localized
from fxquant.targets.tvm_api import I32, I, IRBuilder, PrimFunc, T, returned_unless_zero, with_llvm_ir


def object_file(net: Network, target: Target, *, asks_cpu: bool = False, marked: bool = False) -> bytes:
    """One relocatable object of the network, which defines `<name>_run` and no other name that is seen outside.

    `asks_cpu`: it calls `<name>_supported()` first; `marked`: it calls `<name>_mark(layer)` before each layer.
    """
    run, built = f"{net.name}_run", functions(net, marked=marked)
    built[run] = with_llvm_ir(_run(net, asks_cpu), _constants(net) + _tests(net, asks_cpu))
    return localized(object_code_of(built, target.tvm), lambda name: name == run)


def _run(net: Network, asks_cpu: bool) -> PrimFunc:
    """`int32 <name>_run(inputs..., outputs..., arena)`: the layers with the constants, if nothing is amiss."""
    with IRBuilder() as builder:
        with I.prim_func(s_tir=True):
            I.func_name(f"{net.name}_run")
            I.func_ret(I32)
            sizes = [port.buffer.bytes for port in net.ports] + [net.plan.arena_bytes]
            buffers = [I.arg(f"p{i}", I.buffer((max(n, 1),), "uint8", align=1)) for i, n in enumerate(sizes)]
            pointers = [T.address_of(buffer[0]) for buffer in buffers]
            if asks_cpu:
                I.evaluate(returned_unless_zero(f"{net.name}_bad_cpu", pointers[-1]))
            if net.plan.arena_bytes:
                I.evaluate(returned_unless_zero(f"{net.name}_bad_arena", pointers[-1]))
            for (port, _), pointer in zip(alignments(net), pointers[:-1], strict=True):
                I.evaluate(returned_unless_zero(f"{net.name}_bad_{port}", pointer))
            constants = T.call_extern("handle", f"{net.name}_constants_at")
            I.evaluate(T.call_extern("void", f"{net.name}_layers", *pointers, constants))
            I.Return(T.int32(0))
    return builder.get()


def _tests(net: Network, asks_cpu: bool) -> str:
    """The functions that `_run` asks before it computes; they are inlined."""
    tests = [pointer_test_ir(f"{net.name}_bad_arena", Status.BAD_ARENA, ALIGN)]
    tests += [pointer_test_ir(f"{net.name}_bad_{port}", Status.BAD_PORT, align) for port, align in alignments(net)]
    if asks_cpu:
        tests.append(cpu_test_ir(f"{net.name}_bad_cpu", f"{net.name}_supported"))
    return "".join(tests)


def _constants(net: Network) -> str:
    """The constants as LLVM IR, which TIR has no word for, and a function that gives their address and is inlined."""
    blob = weight_blob(net.program, net.plan) or b"\0"
    text = "\\" + blob.hex("\\")
    return f"""
@{net.name}_constants = internal constant [{len(blob)} x i8] c"{text}", align {ALIGN}
define ptr @{net.name}_constants_at() nounwind {{
  ret ptr @{net.name}_constants
}}
"""
