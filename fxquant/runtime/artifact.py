"""A compiled model as data: what goes in and out, the object code, the weights, and the machine it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fxquant.errors import ArtifactError

WEIGHT_ALIGN = 64  # bytes; what compiled code assumes of the weights pointer of a run

if TYPE_CHECKING:  # importing numpy.typing takes a tenth of the time that loading a model may take
    from numpy.typing import NDArray

    Weights = bytes | bytearray | memoryview | NDArray[np.uint8]


@dataclass(frozen=True)
class Port:
    """One input or output, contiguous in memory, of shape `shape` (batch dimension first, as 1).

    `scale`, `zero_point`, `qmin` and `qmax` say what its integers mean (`x = scale * (q - zero_point)`); None for a
    port that carries plain numbers.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int | None = None
    qmin: int | None = None
    qmax: int | None = None

    @property
    def nbytes(self) -> int:
        """Bytes of one sample."""
        return prod(self.shape) * np.dtype(self.dtype).itemsize

    def describe(self, batched: bool) -> str:
        """Name, dtype, shape (with N for the first dimension where `batched`) and meaning on one line."""
        shape = ("N", *self.shape[1:]) if batched else self.shape
        text = f"{self.name}: {self.dtype}[{', '.join(map(str, shape))}]"
        if self.scale is None:
            return text
        return f"{text}, {self.scale:.6g} * (q - {self.zero_point}), q in [{self.qmin}, {self.qmax}]"


@dataclass(frozen=True)
class IndexCheck:
    """`index`, the words for an input or a value, holds places of a table of `rows` rows, which `reader` looks up."""

    index: str
    reader: str
    rows: int


@dataclass(frozen=True, eq=False)
class Artifact:
    """Everything that `CompiledModel` needs, and all that an `.fxq` file holds.

    `code` is a relocatable ELF object with the entry points of `fxquant.runtime.abi`; `arena_bytes` is memory shared by
    the threads of one run, `scratch_bytes` memory of each thread, `sync_words` the number of int32 synchronization
    words. A `batched` model takes any number of samples along dimension 0 of every port. Where `resident_bytes` is not
    0, the code has a `prepare` that expands `weights` to as many bytes of memory. For each of `index_checks` a run
    writes an index that the table lacks into one int64, if it meets any. `report` is free JSON.
    """

    name: str
    target: Mapping[str, Any]
    cpu_features: tuple[str, ...]
    machine: str
    versions: Mapping[str, str]
    inputs: tuple[Port, ...]
    outputs: tuple[Port, ...]
    batched: bool
    arena_bytes: int
    scratch_bytes: int
    sync_words: int
    code: bytes = field(repr=False)
    weights: Weights = field(repr=False)
    report: Mapping[str, Any] = field(repr=False, default_factory=dict)
    resident_bytes: int = 0
    index_checks: tuple[IndexCheck, ...] = ()

    def __post_init__(self) -> None:
        if not self.outputs:
            raise ArtifactError(f"model {self.name!r} has no output; give the artifact at least one")
        for port in (*self.inputs, *self.outputs):
            if self.batched and port.shape[:1] != (1,):
                raise ArtifactError(
                    f"port {port.describe(False)} of a batched model must have 1 as its first dimension"
                )
        for what in ("arena_bytes", "scratch_bytes", "sync_words", "resident_bytes"):
            size = getattr(self, what)
            if size < 0:
                raise ArtifactError(f"{what} of model {self.name!r} is {size}; it must not be negative")

    def unchecked(self) -> Artifact:
        """The same for indices that are made up: what checks find is returned behind the outputs, nothing refused."""
        found = tuple(Port(f"{check.reader}_index", "int64", (1,)) for check in self.index_checks)
        return replace(self, outputs=(*self.outputs, *found), index_checks=())

    @property
    def weight_view(self) -> memoryview:
        """The weights as plain bytes, not copied."""
        return np.frombuffer(self.weights, np.uint8).data if len(self.weights) else memoryview(b"")
