"""RISC-V without an OS: a static library with a plain C interface."""

from __future__ import annotations

from fxquant.target import Target, Toolchain

_DEBIAN = ("gcc-riscv64-unknown-elf", "picolibc-riscv64-unknown-elf", "qemu-system-misc")


def _riscv(name: str, bits: int, cpu: str, arch: str, abi: str) -> Target:
    tvm = {
        "kind": "llvm",
        "mtriple": f"riscv{bits}-unknown-elf",
        "mcpu": cpu,
        "mattr": ["+m", "+c"],
        "mabi": abi,
        "vector-width": 128,
    }
    flags = (f"-march={arch}", f"-mabi={abi}", "-mcmodel=medany")
    emulator = (f"qemu-system-riscv{bits}", "-M", "virt", "-bios", "none")
    toolchain = Toolchain("riscv64-unknown-elf-gcc", flags, emulator, "riscv", _DEBIAN)
    return Target(name, f"{arch}, scalar code", f"riscv{bits}", "scalar", tvm, form="static", toolchain=toolchain)


RV32 = _riscv("riscv32imc", 32, "generic-rv32", "rv32imc", "ilp32")
RV64 = _riscv("riscv64", 64, "generic-rv64", "rv64imac", "lp64")
ALL = (RV32, RV64)
