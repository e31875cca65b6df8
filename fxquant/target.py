"""A target: what the compiler must know about a machine, as a frozen record."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from typing import Any


@dataclass(frozen=True)
class Target:
    """One kind of machine.

    `isa` names the kernels' instruction set, `tvm` is TVM's target dictionary, `cpu_features` what the CPU must have
    (as in /proc/cpuinfo), `s8_bias` what memory adds to 8-bit activations (128: they are kept unsigned), `recipe` the
    name of the recipe that suits it.
    """

    name: str
    description: str
    machine: str
    isa: str
    tvm: Mapping[str, Any] = field(hash=False)
    cpu_features: tuple[str, ...] = ()
    s8_bias: int = 0
    recipe: str = "default"

    def to_json(self) -> dict[str, Any]:
        """The record as plain data."""
        return asdict(self)
