"""Machine code of a network: kernels, constants, and `int <name>_run(inputs..., outputs..., arena)` in one object.

A network that trains has two more functions, and a state among their parameters: see `Network.entries`.

Nothing but the C library's memcpy, memset and memmove and the compiler's own helpers is left to link. Constants are
read-only data: on a microcontroller they stay in flash.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from fxquant.target import Target
from fxquant.targets.buffers import Tensor
from fxquant.targets.object_cache import object_code_of
from fxquant.targets.planner import weight_blob
from fxquant.targets.standalone.header import alignments
from fxquant.targets.standalone.network import ALIGN, Entry, Network, functions
from fxquant.targets.standalone.status import REGIONS, Status, cpu_test_ir, label_test_ir, pointer_test_ir
from fxquant.targets.standalone.symbols import localized
from fxquant.targets.tvm_api import I32, I, IRBuilder, PrimFunc, T, returned_unless_zero, with_llvm_ir


def object_file(net: Network, target: Target, *, asks_cpu: bool = False, marked: bool = False) -> bytes:
    """One relocatable object of the network, which defines `<name>_run` and the other entries, and no other name that
    is seen outside.

    `asks_cpu`: they call `<name>_supported()` first; `marked`: `run` calls `<name>_mark(layer)` before each layer.
    """
    built = functions(net, marked=marked)
    entries = {entry.symbol(net.name): entry for entry in net.entries}
    for symbol, entry in entries.items():
        constants = _constants(net) if entry.suffix == "run" else ""
        built[symbol] = with_llvm_ir(_function(net, entry, asks_cpu), constants + _tests(net, entry, asks_cpu))
    return localized(object_code_of(built, target.tvm), lambda name: name in entries)


def _function(net: Network, entry: Entry, asks_cpu: bool) -> PrimFunc:
    """`int32 <name>_run(inputs..., outputs..., [state], arena)`: the layers with the constants, if nothing is amiss."""
    prefix = entry.prefix(net.name)
    with IRBuilder() as builder:
        with I.prim_func(s_tir=True):
            I.func_name(entry.symbol(net.name))
            I.func_ret(I32)
            ports = [_port(f"p{i}", port, entry) for i, port in enumerate(entry.ports)]
            regions = {kind: T.address_of(_bytes(kind, net.region_bytes(kind))[0]) for kind in entry.regions}
            if entry.label is not None:
                at = entry.ports.index(entry.label)
                held = I.alloc_buffer((1,), "int32")
                I.buffer_store(held, ports[at], [0])
                ports[at] = T.address_of(held[0])
            for question, pointer in _questions(net, entry, asks_cpu, ports, regions):
                I.evaluate(returned_unless_zero(f"{prefix}_{question}", pointer))
            constants = T.call_extern("handle", f"{net.name}_constants_at")
            I.evaluate(T.call_extern("void", f"{prefix}_layers", *ports, *regions.values(), constants))
            I.Return(T.int32(0))
    return builder.get()


def _bytes(name: str, size: int) -> Any:
    return I.arg(name, I.buffer((max(size, 1),), "uint8", align=1))


def _port(name: str, port: Tensor, entry: Entry) -> Any:
    """A pointer that the caller gives, or the label."""
    return I.arg(name, I.int32()) if port is entry.label else T.address_of(_bytes(name, port.buffer.bytes)[0])


def _questions(
    net: Network, entry: Entry, asks_cpu: bool, ports: Sequence[Any], regions: Mapping[str, Any]
) -> Iterator[tuple[str, Any]]:
    """The functions that are asked before anything is computed, each with what it looks at."""
    if asks_cpu:
        yield "bad_cpu", [*regions.values()][-1]
    for kind, pointer in regions.items():
        if net.region_bytes(kind):
            yield f"bad_{kind}", pointer
    for (name, _), port, pointer in zip(alignments(entry), entry.ports, ports, strict=True):
        yield "bad_label" if port is entry.label else f"bad_{name}", pointer


def _tests(net: Network, entry: Entry, asks_cpu: bool) -> str:
    """The functions that an entry asks before it computes; they are inlined."""
    prefix = entry.prefix(net.name)
    tests = [pointer_test_ir(f"{prefix}_bad_{kind}", REGIONS[kind], ALIGN) for kind in entry.regions]
    for (name, align), port in zip(alignments(entry), entry.ports, strict=True):
        is_label = port is entry.label
        tests.append("" if is_label else pointer_test_ir(f"{prefix}_bad_{name}", Status.BAD_PORT, align))
    if entry.label is not None:
        tests.append(label_test_ir(f"{prefix}_bad_label", net.program.learning.classes))
    if asks_cpu:
        tests.append(cpu_test_ir(f"{prefix}_bad_cpu", f"{net.name}_supported"))
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
