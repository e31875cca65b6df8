"""The `.fxq` file: one artifact, checked to the last byte before any of it is used.

    offset 0   magic (8 bytes), format (u32), header length (u32), file length (u64), SHA-256 (32 bytes), zeros (8)
    offset 64  header: JSON with the fields of `Artifact` and where each section lies
    then       sections `code` and `weights`, each at a multiple of 64 so that weights can be mapped instead of read

The SHA-256 is over the whole file with its own 32 bytes left out. It guards against accidents, not against malice: an
artifact holds machine code, so load only files that you would also run as a program.
"""

from __future__ import annotations

import hashlib
import json
import os
import struct
from collections.abc import Iterable, Mapping
from contextlib import suppress
from dataclasses import asdict, fields
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fxquant.errors import (
    AlteredError,
    ArtifactError,
    ArtifactWriteError,
    ForeignFileError,
    NewerFormatError,
    TruncatedError,
    WrongMachineError,
)
from fxquant.runtime.artifact import WEIGHT_ALIGN, Artifact, IndexCheck, Port
from fxquant.runtime.host import host_machine, missing_features

# Like PNG's magic: the high bit, CR LF and LF show a file that was mangled as text.
MAGIC = b"\x89FXQ\r\n\x1a\n"
# 2: constants that `prepare` expands. 3: runs that note indices out of range. Older files have none, and are read.
FORMAT = 3

_PREFIX = struct.Struct("<8sIIQ32s8x")
_DIGEST = slice(24, 56)
_SECTIONS = ("code", "weights")
_KNOWN = {b"PK\x03\x04": "a zip archive (perhaps a torch file)", b"\x7fELF": "an ELF object", b"\x80": "a pickle"}

if TYPE_CHECKING:
    from numpy.typing import NDArray

    File = NDArray[np.uint8]


def write(artifact: Artifact, path: str | os.PathLike[str]) -> Path:
    """Write `artifact` to `path` so that the file is there in full or (`ArtifactWriteError`) as it was before."""
    target = Path(os.path.realpath(path))
    chunks = _encode(artifact)
    temporary = target.with_name(f".{target.name}.{os.urandom(8).hex()}.tmp")
    try:
        _write_through(temporary, chunks)
        os.replace(temporary, target)
    except BaseException as error:
        temporary.unlink(missing_ok=True)
        if isinstance(error, OSError):
            size = sum(len(chunk) for chunk in chunks)
            raise ArtifactWriteError(
                f"cannot write {target} ({size} bytes): {error.strerror or error}; nothing was left behind. "
                "Make room or choose another place"
            ) from error
        raise
    with suppress(OSError):  # the file is in place; not every file system can sync a directory
        _sync_directory(target.parent)
    return target


def read(path: str | os.PathLike[str], *, any_host: bool = False) -> Artifact:
    """Read an artifact; its weights stay in the file and are mapped.

    Raises the `ArtifactError` that says what is wrong: `ForeignFileError`, `NewerFormatError`, `TruncatedError`,
    `AlteredError`, or `WrongMachineError` where this machine cannot run it, unless `any_host` asks for the data only.
    """
    source = Path(path)
    file = _map(source)
    header = _checked_header(file, source)
    try:
        artifact = _decode(json.loads(header), file)
    except (KeyError, TypeError, ValueError) as error:
        raise AlteredError(f"the header of {source} lacks or garbles a field ({error}); compile it again") from error
    if not any_host:
        check_host(artifact, str(source))
    return artifact


def check_host(artifact: Artifact, where: str) -> None:
    """`WrongMachineError` unless this machine can run `artifact`; `where` names it in the message."""
    if artifact.machine != host_machine():
        raise WrongMachineError(
            f"{where} is compiled for {artifact.machine}, this machine is {host_machine()}; "
            f'compile the model here, or with target="native" on such a machine'
        )
    missing = missing_features(artifact.cpu_features)
    if missing:
        raise WrongMachineError(
            f"{where} needs the CPU features {', '.join(missing)}, which this CPU lacks; "
            "compile the model on this machine or for a target without them"
        )


def _encode(artifact: Artifact) -> list[memoryview]:
    """The file as a list of chunks, so that weights are not copied."""
    bodies = {"code": memoryview(artifact.code), "weights": artifact.weight_view}
    table = {name: [0, len(body)] for name, body in bodies.items()}
    header = {f.name: getattr(artifact, f.name) for f in fields(artifact) if f.name not in _SECTIONS}
    header |= {key: [asdict(entry) for entry in header[key]] for key in ("inputs", "outputs", "index_checks")}
    longest = {name: [1 << 53, size] for name, (_, size) in table.items()}
    end = _align(_PREFIX.size + len(_dump(header | {"sections": longest}, artifact.name)))
    for name, body in bodies.items():
        table[name][0] = end
        end = _align(end + len(body))
    text = _dump(header | {"sections": table}, artifact.name)
    chunks: list[bytes | memoryview] = [b"", text]
    at = _PREFIX.size + len(text)
    for name, body in bodies.items():
        chunks += [bytes(table[name][0] - at), body]
        at = table[name][0] + len(body)
    digest = _digest(_PREFIX.pack(MAGIC, FORMAT, len(text), at, b""), chunks[1:])
    chunks[0] = _PREFIX.pack(MAGIC, FORMAT, len(text), at, digest)
    return [memoryview(chunk) for chunk in chunks]


def _dump(header: Mapping[str, Any], name: str) -> bytes:
    try:
        return json.dumps(header, default=dict, separators=(",", ":")).encode()
    except (TypeError, ValueError) as error:
        raise ArtifactError(f"target, versions or report of model {name!r} is not plain JSON data: {error}") from error


def _write_through(path: Path, chunks: Iterable[memoryview]) -> None:
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o666)
    try:
        for chunk in chunks:
            while chunk:
                chunk = chunk[os.write(descriptor, chunk) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_directory(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _map(path: Path) -> File:
    try:
        if path.stat().st_size == 0:
            raise ForeignFileError(f"{path} is empty, not an fxquant artifact; compile the model again")
        return np.memmap(path, dtype=np.uint8, mode="r")
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {path}: {error}; check that the file exists and may be read") from error


def _checked_header(file: File, path: Path) -> bytes:
    start = file[: _PREFIX.size].tobytes()
    if not start.startswith(MAGIC[: len(start)]):
        kind = next((kind for magic, kind in _KNOWN.items() if start.startswith(magic)), "another kind of file")
        raise ForeignFileError(
            f"{path} is {kind}, not an fxquant artifact; the save method of a compiled model writes one"
        )
    if len(start) < _PREFIX.size:
        raise TruncatedError(f"{path} ends after {len(start)} bytes, within its prefix; copy it again")
    _, version, header_size, size, digest = _PREFIX.unpack(start)
    if version > FORMAT:
        raise NewerFormatError(f"{path} has format {version}, this fxquant reads up to {FORMAT}; update fxquant")
    if len(file) < size:
        raise TruncatedError(f"{path} has {len(file)} of its {size} bytes; copy it again")
    if len(file) != size or _digest(start, [file[_PREFIX.size :].data]) != digest:
        raise AlteredError(f"{path} is not as it was written (its checksum does not fit); copy it again")
    return file[_PREFIX.size : _PREFIX.size + header_size].tobytes()


def _decode(header: dict[str, Any], file: File) -> Artifact:
    bodies = {}
    for name in _SECTIONS:
        start, size = header["sections"][name]
        if start % WEIGHT_ALIGN or not 0 <= start <= start + size <= len(file):
            raise ValueError(f"section {name} at {start}, {size} bytes")
        bodies[name] = file[start : start + size]
    header.setdefault("resident_bytes", 0)  # not in format 1
    header.setdefault("index_checks", [])  # not in format 2
    values = {f.name: header[f.name] for f in fields(Artifact) if f.name not in _SECTIONS}
    for key in ("inputs", "outputs"):
        values[key] = tuple(Port(**{**port, "shape": tuple(port["shape"])}) for port in values[key])
    values["index_checks"] = tuple(IndexCheck(**check) for check in values["index_checks"])
    values["cpu_features"] = tuple(values["cpu_features"])
    return Artifact(**values, code=bodies["code"].tobytes(), weights=bodies["weights"])


def _digest(prefix: bytes, rest: Iterable[bytes | memoryview]) -> bytes:
    checksum = hashlib.sha256(prefix[: _DIGEST.start] + prefix[_DIGEST.stop :])
    for chunk in rest:
        checksum.update(chunk)
    return checksum.digest()


def _align(offset: int) -> int:
    return -(-offset // WEIGHT_ALIGN) * WEIGHT_ALIGN
