"""x86 servers and desktops, by instruction-set level."""

from __future__ import annotations

from fxquant.target import Target, Toolchain

_LINUX = {"kind": "llvm", "mtriple": "x86_64-linux-gnu"}
_AVX2 = ("avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm")

AVX2 = Target(
    "x86-avx2",
    "x86-64 with AVX2: exact u8 x s8 products where weights allow, s16 where not",
    "x86_64",
    "avx2",
    {**_LINUX, "mcpu": "x86-64-v3"},
    _AVX2,
    s8_bias=128,
    recipe="avx2",
)
AVX_VNNI = Target(
    "x86-avxvnni",
    "x86-64 with AVX-VNNI: 256-bit vpdpbusd",
    "x86_64",
    "avxvnni",
    {**_LINUX, "mcpu": "x86-64-v3", "mattr": ["+avxvnni"]},
    (*_AVX2, "avx_vnni"),
    s8_bias=128,
    recipe="vnni",
)
AVX512_VNNI = Target(
    "x86-avx512vnni",
    "x86-64 with AVX-512 VNNI: 512-bit vpdpbusd",
    "x86_64",
    "avx512vnni",
    {**_LINUX, "mcpu": "x86-64-v4", "mattr": ["+avx512vnni", "-prefer-256-bit"]},
    (*_AVX2, "avx512f", "avx512bw", "avx512vl", "avx512dq", "avx512cd", "avx512_vnni"),
    s8_bias=128,
    recipe="vnni",
)
PORTABLE = Target(
    "x86-64",
    "any x86-64, code with a plain C interface for programs without fxquant's runtime",
    "x86_64",
    "scalar",
    {**_LINUX, "mcpu": "x86-64"},
    form="shared",
    toolchain=Toolchain("gcc", debian=("gcc",)),
)
ALL = (AVX512_VNNI, AVX_VNNI, AVX2, PORTABLE)
