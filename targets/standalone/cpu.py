"""Which instructions a shared library's code is made of, and how a program asks Linux for them: `<name>_supported()`.

Without this question a CPU that lacks one stops the process with an illegal instruction, far from the cause.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

from fxquant.errors import TargetError
from fxquant.runtime.host import AARCH64_HWCAPS
from fxquant.target import Target


@dataclass(frozen=True)
class Cpus:
    """A kind of machine: `needs` maps LLVM's names of CPUs and features to those of /proc/cpuinfo; `asked` says by what
    each of these is asked for: a bit of AT_HWCAP (from 32 on, of AT_HWCAP2), or GCC's name on x86."""

    needs: Mapping[str, tuple[str, ...]]
    asked: Mapping[str, int | str]


_V2 = ("popcnt", "pni", "ssse3", "sse4_1", "sse4_2")
_V3 = (*_V2, "avx", "avx2", "bmi1", "bmi2", "f16c", "fma", "abm", "movbe")
_V4 = (*_V3, "avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl")
# GCC writes them differently; all others alike.
_GCC = {"pni": "sse3", "sse4_1": "sse4.1", "sse4_2": "sse4.2", "bmi1": "bmi", "abm": "lzcnt", "avx_vnni": "avxvnni",
        "avx512_vnni": "avx512vnni"}  # fmt: skip
_X86 = Cpus(
    {
        "x86-64": (), "x86-64-v2": _V2, "x86-64-v3": _V3, "x86-64-v4": _V4,
        **{_GCC.get(name, name): (name,) for name in (*_V4, "avx_vnni", "avx512_vnni")},
    },
    {name: _GCC.get(name, name) for name in (*_V4, "avx_vnni", "avx512_vnni")},
)  # fmt: skip
# Bits: linux/arch/arm/include/uapi/asm/hwcap.h.
_AARCH64 = Cpus(
    {
        "generic": (), "neon": ("asimd",), "v8.2a": ("asimd", "crc32", "atomics", "asimdrdm"), "dotprod": ("asimddp",),
        "i8mm": ("i8mm",), "fullfp16": ("fphp", "asimdhp"), "bf16": ("bf16",),
    },
    AARCH64_HWCAPS,
)  # fmt: skip
_ARMV7 = Cpus(
    {
        "generic": (), "cortex-a7": ("idiva", "idivt", "neon", "vfpv4"), "cortex-a9": ("neon",), "neon": ("neon",),
        "vfp4": ("vfpv4",), "hwdiv-arm": ("idiva",), "hwdiv": ("idivt",),
    },
    {"neon": 12, "vfpv4": 16, "idiva": 17, "idivt": 18},
)  # fmt: skip
MACHINES = {"x86_64": _X86, "aarch64": _AARCH64, "armv7l": _ARMV7}


def required_features(target: Target) -> tuple[str, ...]:
    """What the CPU must have, by the names of /proc/cpuinfo, in the order of the alphabet.

    Raises TargetError for a CPU or feature of which nothing is known here, unless `cpu_features` say what it needs.
    """
    if target.machine not in MACHINES:
        raise TargetError(
            f"{target.name}: nobody here knows how to ask a {target.machine!r} for its instructions; shared libraries "
            f"are for {', '.join(MACHINES)}, and form='static' is for every machine"
        )
    cpus = MACHINES[target.machine]
    attributes = target.tvm.get("mattr", ())
    words = [str(target.tvm.get("mcpu") or "generic"), *(a[1:] for a in attributes if a.startswith("+"))]
    without = {feature for a in attributes if a.startswith("-") for feature in cpus.needs.get(a[1:], ())}
    if strange := [word for word in words if word not in cpus.needs and not target.cpu_features]:
        raise TargetError(
            f"{target.name}: what LLVM's {strange[0]!r} needs of a CPU is not known here, and a library must refuse "
            f"one without it; known: {', '.join(cpus.needs)}. Or name it in the target's cpu_features, by the names of "
            "/proc/cpuinfo"
        )
    if strange := [feature for feature in target.cpu_features if feature not in cpus.asked]:
        raise TargetError(
            f"{target.name}: cpu_features has {strange[0]!r}, which nobody here can ask for; known: "
            f"{', '.join(cpus.asked)}"
        )
    needed = {feature for word in words for feature in cpus.needs.get(word, ())} - without
    return tuple(sorted(needed | set(target.cpu_features)))


def questions(target: Target) -> dict[str, object]:
    """What the C template asks for: names for GCC's `__builtin_cpu_supports`, or masks of entries of `getauxval`."""
    features = required_features(target)
    asked = [MACHINES[target.machine].asked[feature] for feature in features]
    names = [name for name in asked if isinstance(name, str)]
    mask = sum(1 << bit for bit in asked if isinstance(bit, int))
    masks = {"AT_HWCAP": mask & 0xFFFFFFFF, "AT_HWCAP2": mask >> 32}
    return {"features": features, "names": names, "masks": {entry: bits for entry, bits in masks.items() if bits}}
