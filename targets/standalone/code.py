"""Machine code of a network: kernels, constants, and `int <name>_run(inputs..., outputs..., arena)` in one object.

Nothing but the C library's memcpy, memset and memmove and the compiler's own helpers is left to link. Constants are
read-only data: on a microcontroller they stay in flash.
"""

from __future__ import annotations

from fxquant.target import Target
from fxquant.targets.network import weight_blob
from fxquant.targets.object_cache import object_code_of
from fxquant.targets.standalone.network import ALIGN, Network, functions
from fxquant.targets.tvm_api import I32, I, IRBuilder, PrimFunc, T, with_llvm_ir


def object_file(net: Network, target: Target, *, marked: bool = False) -> bytes:
    """One relocatable object of the network; `marked`: it calls `<name>_mark(layer)` before each layer."""
    built = functions(net, marked=marked)
    built[f"{net.name}_run"] = with_llvm_ir(_run(net), _constants(net))
    return object_code_of(built, target.tvm)


def _run(net: Network) -> PrimFunc:
    """`int32 <name>_run(inputs..., outputs..., arena)`: the layers with the constants."""
    with IRBuilder() as builder:
        with I.prim_func(s_tir=True):
            I.func_name(f"{net.name}_run")
            I.func_ret(I32)
            sizes = [port.buffer.bytes for port in net.ports] + [net.plan.arena_bytes]
            buffers = [I.arg(f"p{i}", I.buffer((max(n, 1),), "uint8", align=1)) for i, n in enumerate(sizes)]
            pointers = [T.address_of(buffer[0]) for buffer in buffers]
            constants = T.call_extern("handle", f"{net.name}_constants_at")
            I.evaluate(T.call_extern("void", f"{net.name}_layers", *pointers, constants))
            I.Return(T.int32(0))
    return builder.get()


def _constants(net: Network) -> str:
    """The constants as LLVM IR, which TIR has no word for, and a function that gives their address and is inlined."""
    blob = weight_blob(net.program, net.plan) or b"\0"
    text = "".join(f"\\{byte:02x}" for byte in blob)
    return f"""
@{net.name}_constants = internal constant [{len(blob)} x i8] c"{text}", align {ALIGN}
define ptr @{net.name}_constants_at() nounwind {{
  ret ptr @{net.name}_constants
}}
"""
