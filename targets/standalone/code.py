"""Machine code of a network: kernels, constants, and `int <name>_run(inputs..., outputs..., arena)` in one object.

Nothing but the C library's memcpy, memset and memmove and the compiler's own helpers is left to link. Constants are
read-only data: on a microcontroller they stay in flash.
"""

from __future__ import annotations

import tempfile
from pathlib import Path

from fxquant.target import Target
from fxquant.targets.network import weight_blob
from fxquant.targets.standalone.network import ALIGN, Network, functions
from fxquant.targets.tvm_api import build_object, with_llvm_ir


def object_file(net: Network, target: Target, *, marked: bool = False) -> bytes:
    """One relocatable object of the network; `marked`: it calls `<name>_mark(layer)` before each layer."""
    built = functions(net, marked=marked)
    built[f"{net.name}_layers"] = with_llvm_ir(built[f"{net.name}_layers"], _entry(net))
    module = build_object(built, target.tvm)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.o"
        module.write_to_file(str(path))
        return path.read_bytes()


def _entry(net: Network) -> str:
    """The constants and the public function, as LLVM IR."""
    blob = weight_blob(net.program, net.plan) or b"\0"
    text = "".join(f"\\{byte:02x}" for byte in blob)
    ports = ", ".join(f"ptr %p{i}" for i in range(len(net.ports)))
    return f"""
@{net.name}_constants = internal constant [{len(blob)} x i8] c"{text}", align {ALIGN}
declare i32 @{net.name}_layers({", ".join("ptr" for _ in range(len(net.ports) + 2))})
define i32 @{net.name}_run({ports}, ptr %arena) nounwind {{
  %status = call i32 @{net.name}_layers({ports}, ptr %arena, ptr @{net.name}_constants)
  ret i32 %status
}}
"""
