"""RISC-V without an OS: a static library with a plain C interface."""

from __future__ import annotations

from fxquant.target import Target, Toolchain

_DEBIAN = ("gcc-riscv64-unknown-elf", "picolibc-riscv64-unknown-elf", "qemu-system-misc")
_VECTORS = ("-cpu", "rv64,v=true,vext_spec=v1.0,vlen=128")


def _riscv(
    name: str, bits: int, arch: str, abi: str, what: str = "scalar code",
    isa: str = "scalar", attributes: tuple[str, ...] = (), cpu: tuple[str, ...] = (),
) -> Target:  # fmt: skip
    tvm = {
        "kind": "llvm",
        "mtriple": f"riscv{bits}-unknown-elf",
        "mcpu": f"generic-rv{bits}",
        "mattr": ["+m", "+c", *attributes],
        "mabi": abi,
        "vector-width": 128,
    }
    flags = (f"-march={arch}", f"-mabi={abi}", "-mcmodel=medany")
    emulator = (f"qemu-system-riscv{bits}", "-M", "virt", "-bios", "none", *cpu)
    toolchain = Toolchain("riscv64-unknown-elf-gcc", flags, emulator, "riscv", _DEBIAN)
    return Target(name, f"{arch}, {what}", f"riscv{bits}", isa, tvm, form="static", toolchain=toolchain)


RV32 = _riscv("riscv32imc", 32, "rv32imc", "ilp32")
RV64 = _riscv("riscv64", 64, "rv64imac", "lp64")
RVV = _riscv(
    "riscv64-rvv", 64, "rv64gcv", "lp64d", "vectors of 128 bits and more (RVV 1.0)", "rvv", ("+a", "+v"), _VECTORS
)
ALL = (RV32, RV64, RVV)
