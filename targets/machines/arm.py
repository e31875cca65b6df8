"""Arm Linux: `.fxq` files with threads, or a shared library with a plain C interface.

`compile` makes the former of these targets, `export` the latter; see `Target.hosted`.
"""

from __future__ import annotations

from fxquant.target import Target, Toolchain

_A64 = Toolchain(
    "aarch64-linux-gnu-gcc", (), ("qemu-aarch64", "-cpu", "max,sve=off", "-L", "/usr/aarch64-linux-gnu"), "",
    ("gcc-aarch64-linux-gnu", "libc6-dev-arm64-cross", "qemu-user"),
)  # fmt: skip
_A32 = Toolchain(
    "arm-linux-gnueabihf-gcc", ("-mcpu=cortex-a7", "-mfpu=neon"),
    ("qemu-arm", "-cpu", "cortex-a7", "-L", "/usr/arm-linux-gnueabihf"), "",
    ("gcc-arm-linux-gnueabihf", "libc6-dev-armhf-cross", "qemu-user"),
)  # fmt: skip


def _aarch64(name: str, description: str, isa: str, features: tuple[str, ...], *attributes: str) -> Target:
    tvm = {"kind": "llvm", "mtriple": "aarch64-linux-gnu", "mattr": ["+neon", *attributes]}
    return Target(name, description, "aarch64", isa, tvm, ("asimd", *features), form="shared", toolchain=_A64)


NEON = _aarch64("aarch64-neon", "Armv8-A: smull and sadalp (Cortex-A53, A72)", "neon", ())
DOTPROD = _aarch64(
    "aarch64-dotprod", "Armv8.2-A with sdot (Cortex-A55, A76 and later)", "dotprod", ("asimddp",), "+v8.2a", "+dotprod"
)
I8MM = _aarch64(
    "aarch64-i8mm",
    "Armv8.6-A with smmla (Neoverse V1, Cortex-A510 and later)",
    "i8mm",
    ("asimddp", "i8mm"),
    "+v8.2a",
    "+dotprod",
    "+i8mm",
)
ARMV7 = Target(
    "armv7-neon",
    "Armv7-A with NEON (Cortex-A7, A9)",
    "armv7l",
    "neon32",
    {
        "kind": "llvm", "mtriple": "armv7-linux-gnueabihf", "mcpu": "cortex-a7", "mfloat-abi": "hard",
        # An A7 divides; an A9 does not, and runs this code as well.
        "mattr": ["+neon", "-vfp4", "-hwdiv", "-hwdiv-arm"],
    },
    form="shared",
    toolchain=_A32,
)  # fmt: skip
# The best first.
ALL = (I8MM, DOTPROD, NEON, ARMV7)
