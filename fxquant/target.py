"""A target: what the compiler must know about a machine, as a frozen record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any, Literal


@dataclass(frozen=True)
class Toolchain:
    """Programs that link and emulate code for a machine; only `.so` files, emulation and tests need them.

    `compiler` is a gcc, `flags` its options for this machine, `emulator` the QEMU command that the program's path is
    appended to, `machine` the start-up code for a machine without an OS ("" on Linux), `debian` the packages. Where
    QEMU has the very core only on a board of little memory, `core` is the command of that board, and `emulator` that of
    a roomy one whose core executes the same instructions: programs that fit the little one are run on both.
    """

    compiler: str
    flags: tuple[str, ...] = ()
    emulator: tuple[str, ...] = ()
    machine: Literal["", "cortex-m", "riscv"] = ""
    debian: tuple[str, ...] = ()
    core: tuple[str, ...] = ()


@dataclass(frozen=True)
class Target:
    """One kind of machine.

    `isa` names the kernels' instruction set, `tvm` is TVM's target dictionary, `cpu_features` what the CPU must have
    (as in /proc/cpuinfo), `s8_bias` what memory adds to 8-bit activations (128: they are kept unsigned), `recipe` the
    name of the recipe that suits it. `form` says what is made of a model: a `.fxq` artifact that fxquant's runtime runs
    ("hosted"), or code with a plain C interface and no runtime, as a static library, a shared library or C sources.
    """

    name: str
    description: str
    machine: str
    isa: str
    tvm: Mapping[str, Any] = field(hash=False)
    cpu_features: tuple[str, ...] = ()
    s8_bias: int = 0
    recipe: str = "default"
    form: Literal["hosted", "static", "shared", "sources"] = "hosted"
    toolchain: Toolchain | None = None

    def to_json(self) -> dict[str, Any]:
        """The record as plain data."""
        return asdict(self)
