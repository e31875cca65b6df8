"""Object code that was compiled before: nine tenths of compiling are LLVM's, and equal functions give equal code.

    FXQUANT_CACHE=/some/folder    where (else $XDG_CACHE_HOME/fxquant/objects, ~/.cache/fxquant/objects)
    FXQUANT_CACHE=off             nowhere

An entry is found by a digest of all that code generation sees: the functions as TIR, the target, TVM's version, and the
module that drives TVM. Weights of a hosted model are no part of it: they lie beside the code. An entry that is damaged
or foreign is compiled anew; a folder that cannot be written costs one warning.
"""

from __future__ import annotations

import os
import re
import tempfile
import warnings
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from hashlib import sha256
from pathlib import Path
from typing import Any

from fxquant.atomic import write_file
from fxquant.targets import tvm_api
from fxquant.targets.tvm_api import PrimFunc, build_object, function_digest

# When it is exceeded, the entries that were not used for longest go.
MOST_BYTES = 256 << 20
_DIGEST_BYTES = 32
_ENTRY = re.compile(r"[0-9a-f]{64}\.(o|island|proof)")


def object_code_of(functions: Mapping[str, PrimFunc], target: Mapping[str, Any]) -> bytes:
    """The relocatable object of `functions` (see `build_object`), compiled or from the cache."""
    return kept(f"{_key(functions, target)}.o", lambda: _built(functions, target))


def kept(name: str, make: Callable[[], bytes]) -> bytes:
    """The entry `name`, a digest with a suffix: from the cache, or made and kept."""
    found = entry(name)
    if found is None:
        found = make()
        keep(name, found)
    return found


def entry(name: str) -> bytes | None:
    """The entry `name`; None if there is none, or no cache."""
    folder = cache_folder()
    return None if folder is None else _read(folder / name)


def keep(name: str, data: bytes) -> None:
    """Write the entry `name`, if there is a cache."""
    folder = cache_folder()
    if folder is not None:
        _write(folder / name, data)


def compiled(functions: Mapping[str, PrimFunc], target: Mapping[str, Any]) -> bytes:
    """The relocatable object of `functions`, which nobody will ask for again."""
    return _built(functions, target)


def cache_folder() -> Path | None:
    """Where entries lie, None if the cache is off."""
    wanted = os.environ.get("FXQUANT_CACHE", "")
    if wanted == "off":
        return None
    if wanted:
        return Path(wanted)
    try:
        return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fxquant" / "objects"
    except RuntimeError:  # a user without a home
        return None


def _built(functions: Mapping[str, PrimFunc], target: Mapping[str, Any]) -> bytes:
    module = build_object(functions, target)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "network.o"
        module.write_to_file(str(path))
        return path.read_bytes()


def _key(functions: Mapping[str, PrimFunc], target: Mapping[str, Any]) -> str:
    found = sha256(repr((tvm_api.version, _driver(), sorted(target.items()))).encode())
    for name, function in functions.items():
        found.update(f"{name} {function_digest(function)} ".encode())
    return found.hexdigest()


@cache
def _driver() -> str:
    return sha256(Path(tvm_api.__file__).read_bytes()).hexdigest()


def _read(path: Path) -> bytes | None:
    """The entry's object, None if there is none, or not a whole one."""
    try:
        data = path.read_bytes()
        digest, found = data[:_DIGEST_BYTES], data[_DIGEST_BYTES:]
        if sha256(found).digest() != digest:
            return None
        # Its last use, for `_trim`.
        os.utime(path)
    except OSError:
        return None
    return found


def _write(path: Path, code: bytes) -> None:
    """Written beside and moved into place: another process sees a whole entry or none."""
    try:
        path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
        write_file(path, sha256(code).digest(), code)
        _trim(path.parent)
    except OSError as error:
        warnings.warn(
            f"compiled code is not kept in {path.parent}: {error.strerror or error}; FXQUANT_CACHE names another "
            "folder, or off",
            stacklevel=2,
        )


def _trim(folder: Path) -> None:
    """Only what has the name of an entry: the folder may hold files of the user's own."""
    entries = []
    for path in folder.iterdir():
        if _ENTRY.fullmatch(path.name):
            # Another process may be trimming, too.
            with suppress(FileNotFoundError):
                facts = path.stat()
                entries.append((facts.st_mtime, facts.st_size, path))
    total = 0
    for _, size, path in sorted(entries, reverse=True):
        total += size
        if total > MOST_BYTES:
            _forget(path)


def _forget(path: Path) -> None:
    """Remove it; another process may have done so."""
    with suppress(OSError):
        path.unlink(missing_ok=True)
