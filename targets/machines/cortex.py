"""Arm Cortex-M microcontrollers, by core. No OS, no runtime: a static library with a plain C interface."""

from __future__ import annotations

from fxquant.target import Target, Toolchain

# An M0 is in QEMU on the micro:bit alone, with 16 KiB of RAM.
_LITTLE = {"m0": ("qemu-system-arm", "-M", "microbit")}
_DEBIAN = ("gcc-arm-none-eabi", "libnewlib-arm-none-eabi", "qemu-system-arm")


def _cortex(core: str, isa: str, arch: str, board: str, *flags: str, hard: bool = False, mattr: str = "") -> Target:
    """A core: its instruction set, LLVM's architecture, and the QEMU board that stands for it."""
    abi = "eabihf" if hard else "eabi"
    tvm = {"kind": "llvm", "mtriple": f"{arch}-none-{abi}", "mcpu": f"cortex-{core}", "vector-width": 128}
    if hard:
        tvm["mfloat-abi"] = "hard"
    machine = ("qemu-system-arm", "-M", board, *(("-cpu", f"cortex-{core}") if core in ("m55",) else ()))
    # Older compilers (GCC 12) have no M85: the little C around its code is compiled for the M55, as it is emulated.
    known = "m55" if core == "m85" else core
    gcc = (f"-mcpu=cortex-{known}", "-mthumb", *(("-mfloat-abi=hard",) if hard else ()), *flags)
    attributes = {**tvm, "mattr": [mattr]} if mattr else tvm
    toolchain = Toolchain("arm-none-eabi-gcc", gcc, machine, "cortex-m", _DEBIAN, _LITTLE.get(core, ()))
    description = f"Cortex-{core.upper()}: {_WHAT[isa]}"
    return Target(f"cortex-{core}", description, "arm", isa, attributes, form="static", toolchain=toolchain)


_WHAT = {
    "scalar": "scalar code",
    "dsp": "two 16-bit products per instruction (DSP extension)",
    "mve": "128-bit vectors of bytes (Helium, MVE)",
}

M0 = _cortex("m0", "scalar", "thumbv6m", "mps2-an385")
M3 = _cortex("m3", "scalar", "thumbv7m", "mps2-an385")
M4 = _cortex("m4", "dsp", "thumbv7em", "mps2-an386", "-mfpu=fpv4-sp-d16", hard=True)
M7 = _cortex("m7", "dsp", "thumbv7em", "mps2-an500", "-mfpu=fpv5-d16", hard=True)
M33 = _cortex("m33", "dsp", "thumbv8m.main", "mps2-an505", "-mfpu=fpv5-sp-d16", hard=True)
M55 = _cortex("m55", "mve", "thumbv8.1m.main", "mps3-an547", hard=True)
# QEMU has no M85: its code is run on the M55's board.
M85 = _cortex("m85", "mve", "thumbv8.1m.main", "mps3-an547", hard=True)
ALL = (M0, M3, M4, M7, M33, M55, M85)
