"""What this machine is and offers: CPU architecture, instruction sets, and the C functions compiled code may call."""

from __future__ import annotations

import ctypes
import os
from collections.abc import Iterable
from functools import cache
from pathlib import Path

_CPUINFO = Path("/proc/cpuinfo")

# Features of Arm CPUs by their bit in AT_HWCAP (from 32 on, in AT_HWCAP2): linux/arch/arm64/include/uapi/asm/hwcap.h.
AARCH64_HWCAPS = {"asimd": 1, "crc32": 7, "atomics": 8, "fphp": 9, "asimdhp": 10, "asimdrdm": 12, "asimddp": 20,
                  "i8mm": 32 + 13, "bf16": 32 + 14}  # fmt: skip
_AT_HWCAP, _AT_HWCAP2 = 16, 26

# Compilers' names where they are not the kernel's (after `_plain`).
_ALIASES = {"sse3": "pni", "bmi": "bmi1", "lzcnt": "abm", "neon": "asimd", "dotprod": "asimddp", "fullfp16": "asimdhp"}

_MATH = (
    "acos acosh asin asinh atan atan2 atanh cbrt ceil copysign cos cosh erf erfc exp exp10 exp2 expm1 fabs fdim floor "
    "fma fmax fmin fmod frexp hypot ldexp llrint llround log log10 log1p log2 logb lrint lround modf nearbyint "
    "nextafter pow remainder rint round roundeven sin sincos sinh sqrt tan tanh tgamma trunc"
).split()

# Everything a compiled model may call: no files, no network, no allocation.
ALLOWED = frozenset(
    ["memcpy", "memmove", "memset", "memcmp", "bcmp", "sched_yield", "sem_wait", "sem_post", *_MATH]
    + [name + "f" for name in _MATH]
)


def host_machine() -> str:
    """This machine's architecture as the kernel names it: "x86_64", "aarch64"."""
    return os.uname().machine


@cache
def host_features() -> frozenset[str]:
    """Instruction sets of this CPU, by the kernel's names ("avx2", "avx512_vnni", "asimddp"); those all cores share."""
    if host_machine() == "aarch64":
        # Not from /proc/cpuinfo: an emulator shows that of the machine which it runs on.
        getauxval = ctypes.CDLL(None).getauxval
        getauxval.restype, getauxval.argtypes = ctypes.c_ulong, [ctypes.c_ulong]
        words = (getauxval(_AT_HWCAP), getauxval(_AT_HWCAP2))
        return frozenset(name for name, bit in AARCH64_HWCAPS.items() if words[bit // 32] >> bit % 32 & 1)
    lines = _CPUINFO.read_text().splitlines() if _CPUINFO.exists() else []
    cores = [set(line.partition(":")[2].split()) for line in lines if line.startswith(("flags", "Features"))]
    return frozenset(set.intersection(*cores)) if cores else frozenset()


def missing_features(needed: Iterable[str]) -> tuple[str, ...]:
    """Those of `needed` that this CPU lacks, by the kernel's names or the compiler's ("avx512vnni", "neon")."""
    present = {_plain(name) for name in host_features()}
    return tuple(name for name in needed if not present & {_plain(name), _ALIASES.get(_plain(name), "")})


def symbol_address(name: str) -> int | None:
    """Address of a C library function, None if this system has no such function."""
    for library in _libraries():
        try:
            function = library[name]
        except AttributeError:
            continue
        return ctypes.cast(function, ctypes.c_void_p).value
    return None


def _plain(name: str) -> str:
    return name.lower().lstrip("+").replace("_", "").replace(".", "")


@cache
def _libraries() -> tuple[ctypes.CDLL, ...]:
    found = [ctypes.CDLL(None)]
    for soname in ("libm.so.6", "libm.so"):
        try:
            found.append(ctypes.CDLL(soname))
        except OSError:
            continue
        break
    return tuple(found)
