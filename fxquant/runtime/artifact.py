"""A compiled model as data: what goes in and out, the object code, the weights, and the machine it is for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field, replace
from math import prod
from typing import TYPE_CHECKING, Any

import numpy as np

from fxquant.errors import ArtifactError
from fxquant.runtime import check
from fxquant.runtime.needs import DTYPES, Needs

WEIGHT_ALIGN = 64  # bytes; what compiled code assumes of the weights pointer of a run

# Far beyond any model, so that a size that was made up is told from one that was meant.
MOST_BYTES, MOST_SYNC_WORDS, MOST_PORTS, MOST_DIMENSIONS = 1 << 36, 1 << 24, 1 << 10, 32

if TYPE_CHECKING:  # importing numpy.typing takes a tenth of the time that loading a model may take
    from numpy.typing import NDArray

    Weights = bytes | bytearray | memoryview | NDArray[np.uint8]


@dataclass(frozen=True)
class Port:
    """One input or output, contiguous in memory, of shape `shape` (batch dimension first, as 1).

    `scale`, `zero_point`, `qmin` and `qmax` say what its integers mean (`x = scale * (q - zero_point)`); None for a
    port that carries plain numbers. `ArtifactError` for what no port can be.
    """

    name: str
    dtype: str
    shape: tuple[int, ...]
    scale: float | None = None
    zero_point: int | None = None
    qmin: int | None = None
    qmax: int | None = None

    def __post_init__(self) -> None:
        check.text("name of a port", self.name)
        where = f"port {self.name!r}"
        check.choice(f"dtype of {where}", self.dtype, DTYPES)
        check.count(
            f"number of dimensions of {where}", len(check.items(f"shape of {where}", self.shape)), MOST_DIMENSIONS
        )
        for size in self.shape:
            check.count(f"a dimension of {where}", size, MOST_BYTES)
        check.count(f"size in bytes of {where}", self.nbytes, MOST_BYTES)
        meaning = (self.scale, self.zero_point, self.qmin, self.qmax)
        if meaning != (None, None, None, None):
            self._check_meaning(where)

    def _check_meaning(self, where: str) -> None:
        check.positive(f"scale of {where}", self.scale)
        check.whole(f"zero_point of {where}", self.zero_point, -(1 << 31), (1 << 31) - 1)
        if np.dtype(self.dtype).kind not in "iu":
            raise ArtifactError(f"{where} is {self.dtype} and has a scale; only integers have one")
        held = np.iinfo(self.dtype)
        low = check.whole(f"qmin of {where}", self.qmin, int(held.min), int(held.max))
        check.whole(f"qmax of {where}", self.qmax, low, int(held.max))

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

    Every field is checked (`ArtifactError`); whether the code is made for these sizes is checked before it is mapped.
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
        check.text("name", self.name)
        where = f"model {self.name!r}"
        check.text(f"machine of {where}", self.machine)
        for feature in check.items(f"cpu_features of {where}", self.cpu_features):
            check.text(f"a CPU feature of {where}", feature)
        for key, version in check.mapping(f"versions of {where}", self.versions).items():
            check.text(f"version of {key} of {where}", version)
        check.mapping(f"target of {where}", self.target)
        check.mapping(f"report of {where}", self.report)
        self._check_ports(where)
        for entry in check.items(f"index_checks of {where}", self.index_checks):
            check.text(f"the index of a check of {where}", entry.index)
            check.text(f"the reader of a check of {where}", entry.reader)
            check.whole(f"the rows of a check of {where}", entry.rows, 1, MOST_BYTES)
        check.count(f"number of index_checks of {where}", len(self.index_checks), MOST_PORTS)
        for what in ("arena_bytes", "scratch_bytes", "resident_bytes"):
            check.count(f"{what} of {where}", getattr(self, what), MOST_BYTES)
        check.count(f"sync_words of {where}", self.sync_words, MOST_SYNC_WORDS)

    def _check_ports(self, where: str) -> None:
        if not isinstance(self.batched, bool):
            raise ArtifactError(f"batched of {where} is {check.shown(self.batched)}, not true or false")
        if not self.outputs:
            raise ArtifactError(f"{where} has no output; give the artifact at least one")
        for kind, ports in (("inputs", self.inputs), ("outputs", self.outputs)):
            check.count(f"number of {kind} of {where}", len(check.items(f"{kind} of {where}", ports)), MOST_PORTS)
            names = [port.name for port in ports]
            twice = next((name for name in names if names.count(name) > 1), None)
            if twice is not None:
                raise ArtifactError(f"{where} has two {kind} called {twice!r}; give each a name of its own")
        for port in (*self.inputs, *self.outputs):
            if self.batched and port.shape[:1] != (1,):
                raise ArtifactError(
                    f"port {port.describe(False)} of a batched model must have 1 as its first dimension"
                )

    def unchecked(self) -> Artifact:
        """The same for indices that are made up: what checks find is returned behind the outputs, nothing refused."""
        found = tuple(Port(f"{check.reader}_index", "int64", (1,)) for check in self.index_checks)
        return replace(self, outputs=(*self.outputs, *found), index_checks=())

    @property
    def weight_view(self) -> memoryview:
        """The weights as plain bytes, not copied."""
        return np.frombuffer(self.weights, np.uint8).data if len(self.weights) else memoryview(b"")

    @property
    def needs(self) -> Needs:
        """What the code of this model must be compiled for."""
        return Needs(
            self.batched,
            self.cpu_features,
            self.arena_bytes,
            self.scratch_bytes,
            self.sync_words,
            len(self.weight_view),
            self.resident_bytes,
            tuple((port.dtype, port.shape) for port in self.inputs),
            (*((port.dtype, port.shape) for port in self.outputs), *(("int64", (1,)) for _ in self.index_checks)),
        )
