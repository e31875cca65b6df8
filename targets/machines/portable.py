"""C99 for any toolchain."""

from __future__ import annotations

from fxquant.target import Target, Toolchain

C = Target(
    "c",
    "portable C99 sources for any compiler",
    "any",
    "scalar",
    {"kind": "c"},
    form="sources",
    toolchain=Toolchain("gcc", ("-std=c99",), (), "", ("gcc",)),
)
ALL = (C,)
