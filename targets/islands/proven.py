"""The island of an operation: imported, compared with torch, and kept for whoever asks for an equal one."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import cache
from hashlib import sha256
from pathlib import Path

import torch
from torch import Tensor

from fxquant.errors import LoweringError
from fxquant.runtime.host import host_machine
from fxquant.source import describe
from fxquant.targets import islands, tvm_api, tvm_islands, tvm_operators
from fxquant.targets.islands.operation import Operation, program_of
from fxquant.targets.islands.proof import prove, require_shapes
from fxquant.targets.islands.samples import samples
from fxquant.targets.object_cache import kept
from fxquant.targets.tvm_islands import Island, import_island, island_of_text, text_of

REMEDY = (
    "write it with other operators, or compile the part of the model without it; the graph itself runs it in PyTorch"
)
# Of the islands that this process has asked for.
_known: dict[str, Island] = {}


def proven_island(operation: Operation, fakes: Sequence[Tensor], constants: Mapping[int, Tensor]) -> Island:
    """The island that computes what torch does, from operands with the shapes and types of `fakes`.

    `constants` are those operands, by number, whose values are known. Raises LoweringError, with the operator and its
    place in the model, where there is no such island.
    """
    key = _key(operation, fakes, constants)
    if key not in _known:

        def make() -> bytes:
            return text_of(_proven(operation, fakes, constants)).encode()

        _known[key] = island_of_text(kept(f"{key}.island", make).decode())
    return _known[key]


def _proven(operation: Operation, fakes: Sequence[Tensor], constants: Mapping[int, Tensor]) -> Island:
    try:
        island = import_island(program_of(operation, fakes))
        taken = list(samples(operation, fakes, constants))
        require_shapes(island, taken[0].wanted)
        prove(island, taken)
    except LoweringError as error:
        raise LoweringError(
            f"{describe(operation.node)} has no integer spelling and cannot be compiled in float: {error}. "
            f"Remedy: {REMEDY}"
        ) from error
    return island


def _key(operation: Operation, fakes: Sequence[Tensor], constants: Mapping[int, Tensor]) -> str:
    operands = [(tuple(fake.shape), fake.dtype) for fake in fakes]
    found = sha256(
        repr((operation.text(), operands, torch.__version__, tvm_api.version, host_machine(), _sources())).encode()
    )
    for place, value in sorted(constants.items()):
        found.update(f"{place}".encode() + value.numpy().tobytes())
    return found.hexdigest()


@cache
def _sources() -> str:
    """What imports and proves islands, as it is written."""
    folders = [Path(str(package.__file__)).parent for package in (islands, tvm_operators)]
    files = [path for folder in folders for path in sorted(folder.glob("*.py"))]
    return sha256(b"".join(p.read_bytes() for p in (*files, Path(tvm_islands.__file__)))).hexdigest()
