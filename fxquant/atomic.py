"""Files that are there in full or as they were: written beside, synced, and renamed into place.

Whoever reads meanwhile sees the old file or the new one, whole. A full disk, an error or a kill leaves what was there.
A process that is killed leaves a file `.NAME.XXXX.tmp` beside; the next write to the same place removes it. What tells
it from the file that a living writer is busy with is the lock which a writer holds (`flock`: it ends with the process).

Standard library only, for the runtime writes files, too. Errors are OSError; callers say what was to be written.
"""

from __future__ import annotations

import errno
import fcntl
import os
import re
import shutil
import stat
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path

Bytes = bytes | bytearray | memoryview


def write_file(path: str | os.PathLike[str], *chunks: Bytes) -> Path:
    """Write the chunks, one after the other, and give the path behind all links.

    A file that was there keeps its permissions; a new one follows the umask. What is no file, a device or a pipe, is
    written to as it is. Raises OSError; then what was there is as it was, and nothing else is left behind.
    """
    target = Path(os.path.realpath(path))
    old = _stat(target)
    if old is not None and not stat.S_ISREG(old.st_mode):
        _write_through(os.open(target, os.O_WRONLY | os.O_CLOEXEC), chunks)
        return target
    with _beside(target, folder=False) as (part, descriptor):
        if old is not None:
            with suppress(PermissionError):  # another user's file becomes ours, as an editor's would
                os.fchown(descriptor, old.st_uid, old.st_gid)
            os.fchmod(descriptor, stat.S_IMODE(old.st_mode))
        _write_through(os.dup(descriptor), chunks)
        os.replace(part, target)
    _sync_folder(target.parent)
    return target


def write_folder(path: str | os.PathLike[str], files: Mapping[str, Bytes]) -> Path:
    """Write all files into a folder, which is made; what it holds under other names stays.

    A new folder appears with all of its files at once. In one that exists, files are replaced one by one after all have
    been written beside it, and put back if one of them cannot be: only a kill or a power cut between two renames leaves
    files of both kinds, each of them whole. Raises OSError.
    """
    target = Path(os.path.realpath(path))
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists() and not target.is_dir():
        raise NotADirectoryError(errno.ENOTDIR, "it is a file: name a folder", str(target))
    with _beside(target, folder=True) as (part, _):
        for name, content in files.items():
            _write_new(part / name, content)
        _sync_folder(part)
        if target.exists():
            _replace_all(part, target, list(files))
        else:
            os.rename(part, target)
    _sync_folder(target.parent)
    return target


def _replace_all(part: Path, target: Path, names: list[str]) -> None:
    """Rename each file into place; should one fail, rename all of them back."""
    for name in names:
        if (found := _stat(target / name)) is not None:
            if stat.S_ISDIR(found.st_mode):
                raise IsADirectoryError(errno.EISDIR, f"it holds a folder {name}", str(target))
            (part / name).chmod(stat.S_IMODE(found.st_mode))
    old = part / ".old"
    old.mkdir()
    kept, done = list[str](), list[str]()
    try:
        for name in names:
            with suppress(FileNotFoundError):
                os.rename(target / name, old / name)
                kept.append(name)
            os.rename(part / name, target / name)
            done.append(name)
    except BaseException:
        for name in done:
            (target / name).unlink()
        for name in kept:
            os.rename(old / name, target / name)
        raise
    _sync_folder(target)


@contextmanager
def _beside(target: Path, *, folder: bool) -> Iterator[tuple[Path, int]]:
    """A new file or folder beside `target`, held by a lock, and gone in the end unless it was renamed."""
    _remove_stale(target)
    part, descriptor = _held(target, folder)
    try:
        yield part, descriptor
    except BaseException:
        _remove(part)
        raise
    finally:
        os.close(descriptor)
        if folder:
            _remove(part)


def _held(target: Path, folder: bool) -> tuple[Path, int]:
    while True:
        part = target.with_name(f"{_prefix(target)}{os.urandom(8).hex()}.tmp")
        if folder:
            part.mkdir()
        descriptor = os.open(part, _FOLDER if folder else _NEW, 0o666)
        with suppress(OSError):  # a file system without locks: then nobody's files are taken for stale
            fcntl.flock(descriptor, fcntl.LOCK_EX)
        # Somebody may have taken it for stale before it was locked.
        found = _stat(part)
        if found is not None and found.st_ino == os.fstat(descriptor).st_ino:
            return part, descriptor
        os.close(descriptor)


def _remove_stale(target: Path) -> None:
    """What killed writers of `target` left: nobody holds its lock."""
    name = re.compile(re.escape(_prefix(target)) + r"[0-9a-f]{16}\.tmp")
    with suppress(OSError):
        for entry in os.scandir(target.parent):
            if name.fullmatch(entry.name):
                _remove_if_stale(Path(entry.path))


def _remove_if_stale(part: Path) -> None:
    with suppress(OSError):
        descriptor = os.open(part, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            _remove(part)
        finally:
            os.close(descriptor)


_NEW = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC
_FOLDER = os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC


def _prefix(target: Path) -> str:
    # Names may be as long as the file system allows: ours must fit, too.
    return f".{target.name[:200]}."


def _remove(part: Path) -> None:
    if part.is_dir():
        shutil.rmtree(part, ignore_errors=True)
    else:
        with suppress(OSError):
            part.unlink(missing_ok=True)


def _write_new(path: Path, content: Bytes) -> None:
    _write_through(os.open(path, _NEW, 0o666), [content])


def _write_through(descriptor: int, chunks: Iterable[Bytes]) -> None:
    """Write, sync and close."""
    try:
        for chunk in chunks:
            rest = memoryview(chunk).cast("B")
            while rest:
                rest = rest[os.write(descriptor, rest) :]
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _sync_folder(path: Path) -> None:
    """The names are on the disk, too; not every file system can do that, and the files are in place."""
    with suppress(OSError):
        descriptor = os.open(path, _FOLDER)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _stat(path: Path) -> os.stat_result | None:
    try:
        return path.stat()
    except FileNotFoundError:
        return None
