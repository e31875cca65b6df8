"""The .fxq file: one compiled model, whole or refused. Written in one step, read once and checked to the last byte.

    offset 0   magic (8 bytes), format (u32), header length (u32), file length (u64), SHA-256 (32 bytes),
               signature length (u32: 0 or 32), zeros (4)
    offset 64  header: JSON with the fields of `Artifact` and where each section lies; see `fxquant.runtime.header`
    then       sections `code` and `weights`, each at a multiple of 64
    at last    the signature, if there is one

The SHA-256 is over the whole file with its own 32 bytes left out; the signature is of the SHA-256 without itself. The
checksum guards against accidents; for what it does not promise see `fxquant.runtime.signature`.

A file is read into memory and never mapped: what is checked is what runs, whatever happens to the file meanwhile.
"""

from __future__ import annotations

import hashlib
import os
import stat
import struct
from collections.abc import Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from fxquant.atomic import write_file
from fxquant.errors import (
    AlteredError,
    ArtifactError,
    ArtifactWriteError,
    ForeignFileError,
    NewerFormatError,
    OlderFormatError,
    TruncatedError,
    UnsignedError,
    WrongKeyError,
    WrongMachineError,
)
from fxquant.runtime import header, several, signature
from fxquant.runtime.artifact import WEIGHT_ALIGN, Artifact
from fxquant.runtime.host import host_machine, missing_features
from fxquant.runtime.memory import allocate

if TYPE_CHECKING:
    from fxquant.runtime.memory import Bytes

# Like PNG's magic: the high bit, CR LF and LF show a file that was mangled as text.
MAGIC = b"\x89FXQ\r\n\x1a\n"
FORMAT = 3  # since 3, the code says what memory it needs; what older code needs cannot be checked

_PREFIX = struct.Struct("<8sIIQ32sI4s")
_DIGEST = slice(24, 56)
_KNOWN = {b"PK\x03\x04": "a zip archive (perhaps a torch file)", b"\x7fELF": "an ELF object", b"\x80": "a pickle"}


def write(artifact: Artifact, path: str | os.PathLike[str], *others: Artifact, key: bytes | None = None) -> Path:
    """Write `artifact` to `path` so that the file is there in full or (`ArtifactWriteError`) as it was before.

    With `others`, the same model for other CPUs, it is a file of several parts, see `fxquant.runtime.several`. With a
    `key` (at least 16 secret bytes) it is signed, and `read` can tell that it is from somebody who has the key.
    """
    chunks = _encode(artifact, key)
    if others:
        chunks = several.joined([chunks, *(_encode(other, key) for other in others)])
    try:
        return write_file(path, *chunks)
    except OSError as error:
        size = sum(len(chunk) for chunk in chunks)
        raise ArtifactWriteError(
            f"cannot write {os.fspath(path)} ({size} bytes): {error.strerror or error}; nothing was left behind. "
            "Make room or choose another place"
        ) from error


def read(path: str | os.PathLike[str], *, any_host: bool = False, trusted: bytes | None = None) -> Artifact:
    """Read an artifact, all of it, into memory of its own; of several in one file the first that this machine can run.

    Raises the `ArtifactError` that says what is wrong: `ForeignFileError`, `OlderFormatError`, `NewerFormatError`,
    `TruncatedError`, `AlteredError`, or `WrongMachineError` where this machine cannot run it, unless `any_host` asks
    for the data only. With the key `trusted`, a file that is not signed with it is an `UnsignedError` or a
    `WrongKeyError` before its header is looked at.
    """
    source = Path(path)
    places = several.places(source)
    if places is None or any_host:
        artifact = _read(source, places[0] if places else None, trusted)
        if not any_host:
            check_host(artifact, str(source))
        return artifact
    unfit = []
    for place in places:
        artifact = _read(source, place, trusted)
        if runs_here(artifact):
            return artifact
        unfit.append(f"{artifact.machine} ({', '.join(artifact.cpu_features) or 'any CPU'})")
    raise WrongMachineError(
        f"{source} has code for {', '.join(unfit)}, and none for this {host_machine()} CPU; compile the model here, or "
        "for a target that this CPU has the instructions of"
    )


def read_all(path: str | os.PathLike[str], *, trusted: bytes | None = None) -> list[Artifact]:
    """Every artifact of a file, whatever machine they are for. Raises what `read` does, but for that."""
    source = Path(path)
    return [_read(source, place, trusted) for place in several.places(source) or (None,)]


def _read(source: Path, place: several.Place | None, trusted: bytes | None) -> Artifact:
    """An artifact that is the whole file, or a part of it."""
    prefix, file = _whole(source, place)
    text_bytes, signed_bytes = _checked(prefix, file, source, trusted)
    start = _PREFIX.size + text_bytes
    try:
        return header.decode(file[_PREFIX.size : start].tobytes(), file[: len(file) - signed_bytes], start)
    except ArtifactError as error:
        raise AlteredError(f"the header of {source} lacks or garbles a field: {error}; compile it again") from error


def runs_here(artifact: Artifact) -> bool:
    """Whether this machine can run it."""
    return artifact.machine == host_machine() and not missing_features(artifact.cpu_features)


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


def _encode(artifact: Artifact, key: bytes | None) -> list[memoryview]:
    """The file as a list of chunks, so that weights are not copied."""
    bodies = {"code": memoryview(artifact.code), "weights": artifact.weight_view}
    # How long the header is depends on where sections lie, and this on it: the longest numbers leave room for all.
    end = _align(_PREFIX.size + len(header.encode(artifact, {name: (1 << 53, len(b)) for name, b in bodies.items()})))
    places = {}
    for name, body in bodies.items():
        places[name] = (end, len(body))
        end = _align(end + len(body))
    text = header.encode(artifact, places)
    chunks: list[bytes | memoryview] = [text]
    at = _PREFIX.size + len(text)
    for name, body in bodies.items():
        chunks += [bytes(places[name][0] - at), body]
        at = places[name][0] + len(body)
    signed = 0 if key is None else signature.BYTES
    start = _PREFIX.pack(MAGIC, FORMAT, len(text), at + signed, b"", signed, b"")
    checksum = _checksum(start, chunks)
    if key is not None:
        chunks.append(signature.sign(key, checksum.digest()))
        checksum.update(chunks[-1])
    return [memoryview(chunk) for chunk in (_with_digest(start, checksum.digest()), *chunks)]


def _whole(path: Path, place: several.Place | None) -> tuple[bytes, Bytes]:
    """Prefix and all bytes of what begins and is as long as an artifact, a file or its part at a place."""
    try:
        with open(path, "rb", buffering=0, opener=_open_at_once) as file:
            facts = os.fstat(file.fileno())
            if not stat.S_ISREG(facts.st_mode):
                raise ForeignFileError(f"cannot read {path}: it is not a regular file")
            start, size = place or (0, facts.st_size)
            file.seek(start)
            prefix = (file.read(_PREFIX.size) or b"")[:size]
            _require_prefix(prefix, size, path)
            memory = allocate(size)
            file.seek(start)
            left = memory.data
            while left and (count := file.readinto(left)):
                left = left[count:]
    except (OSError, ValueError) as error:
        raise ArtifactError(f"cannot read {path}: {error}; check that the file exists and may be read") from error
    if left or memory[: _PREFIX.size].tobytes() != prefix:
        raise AlteredError(f"{path} was written to while it was read; load it again")
    memory.flags.writeable = False
    return prefix, memory


def _open_at_once(path: str, flags: int) -> int:
    return os.open(path, flags | os.O_NONBLOCK)  # a pipe would wait for its writer


def _require_prefix(prefix: bytes, size: int, path: Path) -> None:
    if size == 0:
        raise ForeignFileError(f"{path} is empty, not an fxquant artifact; compile the model again")
    if not prefix.startswith(MAGIC[: len(prefix)]):
        kind = next((kind for magic, kind in _KNOWN.items() if prefix.startswith(magic)), "another kind of file")
        raise ForeignFileError(
            f"{path} is {kind}, not an fxquant artifact; the save method of a compiled model writes one"
        )
    if len(prefix) < _PREFIX.size:
        raise TruncatedError(f"{path} ends after {len(prefix)} bytes, within its prefix; copy it again")
    _, version, _, wanted, _, _, _ = _PREFIX.unpack(prefix)
    if version > FORMAT:
        raise NewerFormatError(f"{path} has format {version}, this fxquant reads {FORMAT}; update fxquant")
    if version < FORMAT:
        raise OlderFormatError(f"{path} has format {version}, this fxquant reads {FORMAT}; compile the model again")
    if size < wanted:
        raise TruncatedError(f"{path} has {size} of its {wanted} bytes; copy it again")
    if size > wanted:
        raise AlteredError(
            f"{path} has {size} bytes, not the {wanted} of its prefix: its checksum cannot fit; copy it again"
        )


def _checked(prefix: bytes, file: Bytes, path: Path, trusted: bytes | None) -> tuple[int, int]:
    """Bytes of the header and of the signature, once checksum and, where a key is given, signature are found right."""
    _, _, text_bytes, _, digest, signed, zeros = _PREFIX.unpack(prefix)
    if signed not in (0, signature.BYTES) or any(zeros) or text_bytes + signed > len(file) - _PREFIX.size:
        raise AlteredError(f"{path} has lengths in its prefix that do not fit; copy it again")
    if trusted is not None and not signed:
        signature.checked_key(trusted)
        raise UnsignedError(f"{path} is not signed, and only files signed with the given key are trusted")
    end = len(file) - signed
    checksum = _checksum(prefix, [file[_PREFIX.size : end].data])
    content, seal = checksum.digest(), file[end:].tobytes()
    checksum.update(seal)
    if checksum.digest() != digest:
        raise AlteredError(f"{path} is not as it was written (its checksum does not fit); copy it again")
    if trusted is not None and not signature.is_signed_by(trusted, content, seal):
        raise WrongKeyError(f"{path} is signed with another key than the given one; do not use it, or give its key")
    return text_bytes, signed


def _checksum(prefix: bytes, rest: Iterable[bytes | memoryview]) -> hashlib._Hash:
    checksum = hashlib.sha256(prefix[: _DIGEST.start] + prefix[_DIGEST.stop :])
    for chunk in rest:
        checksum.update(chunk)
    return checksum


def _with_digest(prefix: bytes, digest: bytes) -> bytes:
    return prefix[: _DIGEST.start] + digest + prefix[_DIGEST.stop :]


def _align(offset: int) -> int:
    return -(-offset // WEIGHT_ALIGN) * WEIGHT_ALIGN
