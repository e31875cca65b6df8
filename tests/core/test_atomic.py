"""Files are there in full or as they were: full disks, kills, other writers, readers."""

from __future__ import annotations

import errno
import fcntl
import os
import signal
import stat
import subprocess
import sys
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from fxquant.atomic import write_file, write_folder

STALE = ".net.bin.0123456789abcdef.tmp"
WRITER = "import sys, os\nfrom fxquant.atomic import write_file\n"


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_chunks_are_written_one_after_the_other(tmp_path: Path) -> None:
    assert write_file(tmp_path / "net.bin", b"ab", memoryview(b"cd"), b"") == tmp_path / "net.bin"
    assert (tmp_path / "net.bin").read_bytes() == b"abcd"
    assert names(tmp_path) == ["net.bin"]


@pytest.mark.parametrize("call", ["open", "write", "fsync", "replace", "fchmod"])
def test_whatever_fails_the_old_file_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str) -> None:
    path = tmp_path / "net.bin"
    path.write_bytes(b"old")

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(OSError, match="No space left"):
        write_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and names(tmp_path) == ["net.bin"]


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o755, 0o440])
def test_permissions_of_what_is_replaced_are_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "net.bin"
    path.write_bytes(b"old")
    path.chmod(mode)
    write_file(path, b"new")
    assert stat.S_IMODE(path.stat().st_mode) == mode and path.read_bytes() == b"new"


def test_new_files_follow_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        write_file(tmp_path / "net.bin", b"new")
        write_folder(tmp_path / "out", {"a": b"1"})
    finally:
        os.umask(before)
    modes = [stat.S_IMODE((tmp_path / name).stat().st_mode) for name in ("net.bin", "out", "out/a")]
    assert modes == [0o640, 0o750, 0o640]


def test_links_are_followed_and_devices_written_to(tmp_path: Path) -> None:
    (tmp_path / "net.bin").write_bytes(b"old")
    (tmp_path / "link").symlink_to("net.bin")
    write_file(tmp_path / "link", b"new")
    assert (tmp_path / "link").is_symlink() and (tmp_path / "net.bin").read_bytes() == b"new"
    write_file("/dev/null", b"new")
    assert stat.S_ISCHR(os.stat("/dev/null").st_mode)
    with pytest.raises(OSError, match="No space left"):
        write_file("/dev/full", b"new")
    with pytest.raises(IsADirectoryError):
        write_file(tmp_path, b"new")


def test_what_a_killed_writer_left_goes_with_the_next_write(tmp_path: Path) -> None:
    code = (
        WRITER + "os.replace = lambda *_: (print('here', flush=True), sys.stdin.read())\nwrite_file(sys.argv[1], b'x')"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "net.bin")]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
        assert process.stdout is not None and process.stdout.readline() == b"here\n"
        write_file(tmp_path / "net.bin", b"mine")  # the other one is alive: its file stays
        assert len(names(tmp_path)) == 2
        process.send_signal(signal.SIGKILL)
    assert len(names(tmp_path)) == 2
    write_file(tmp_path / "net.bin", b"again")
    assert names(tmp_path) == ["net.bin"]


def test_files_of_others_are_not_taken_for_stale(tmp_path: Path) -> None:
    mine = [".net.bin.tmp", ".net.bin.notes.tmp", ".other.bin.0123456789abcdef.tmp", STALE + "x"]
    for name in [*mine, STALE]:
        (tmp_path / name).write_bytes(b"")
    write_file(tmp_path / "net.bin", b"new")
    assert names(tmp_path) == sorted([*mine, "net.bin"])


def test_a_file_that_is_locked_is_not_taken_for_stale(tmp_path: Path) -> None:
    with (tmp_path / STALE).open("wb") as file:
        fcntl.flock(file, fcntl.LOCK_EX)
        write_file(tmp_path / "net.bin", b"new")
        assert names(tmp_path) == [STALE, "net.bin"]


def test_a_writer_whose_file_was_taken_for_stale_starts_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    lock: Callable[..., None] = fcntl.flock
    taken: list[Path] = []

    def slow(descriptor: int, how: int) -> None:
        if not taken:  # between making the file and locking it
            (part,) = tmp_path.glob(".net.bin.*.tmp")
            part.unlink()
            taken.append(part)
        lock(descriptor, how)

    monkeypatch.setattr(fcntl, "flock", slow)
    write_file(tmp_path / "net.bin", b"new")
    assert taken and names(tmp_path) == ["net.bin"]


def test_readers_see_the_old_file_or_the_new_one(tmp_path: Path) -> None:
    path = tmp_path / "net.bin"
    contents = [bytes([number]) * 200_000 for number in range(4)]
    write_file(path, contents[0])
    ended, seen = threading.Event(), set[bytes]()

    def read() -> None:
        while not ended.is_set():
            seen.add(path.read_bytes())

    def write(content: bytes) -> None:
        for _ in range(15):
            write_file(path, content[:100_000], content[100_000:])

    reader = threading.Thread(target=read)
    writers = [threading.Thread(target=write, args=(content,)) for content in contents]
    for thread in (reader, *writers):
        thread.start()
    for thread in writers:
        thread.join()
    ended.set()
    reader.join()
    assert seen <= set(contents) and names(tmp_path) == ["net.bin"]


def test_a_folder_appears_with_all_its_files(tmp_path: Path) -> None:
    write_folder(tmp_path / "deep" / "out", {"a": b"1", "b": b"2"})
    assert names(tmp_path / "deep") == ["out"] and names(tmp_path / "deep" / "out") == ["a", "b"]


def test_a_folder_keeps_what_is_not_replaced(tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    (out / "Makefile").write_bytes(b"mine")
    (out / "a").write_bytes(b"old")
    (out / "a").chmod(0o600)
    write_folder(out, {"a": b"new", "b": b"2"})
    assert {name: (out / name).read_bytes() for name in names(out)} == {"Makefile": b"mine", "a": b"new", "b": b"2"}
    assert stat.S_IMODE((out / "a").stat().st_mode) == 0o600
    assert names(tmp_path) == ["out"]


@pytest.mark.parametrize("call", ["write", "fsync", "rename"])
@pytest.mark.parametrize("after", [0, 1, 2, 3])
def test_a_folder_has_all_files_or_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, call: str, after: int) -> None:
    out = tmp_path / "out"
    write_folder(out, {"a": b"old a", "b": b"old b"})
    honest, count = getattr(os, call), [0]

    def fail(*arguments: Any) -> Any:
        count[0] += 1
        if count[0] == after + 1:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return honest(*arguments)

    monkeypatch.setattr(os, call, fail)
    try:
        write_folder(out, {"a": b"new a", "b": b"new b", "c": b"new c"})
    except OSError:
        expected = {"a": b"old a", "b": b"old b"}
    else:
        expected = {"a": b"new a", "b": b"new b", "c": b"new c"}
    assert {name: (out / name).read_bytes() for name in names(out)} == expected
    assert names(tmp_path) == ["out"]


def test_what_cannot_be_a_folder_is_refused(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"mine")
    with pytest.raises(NotADirectoryError, match="name a folder"):
        write_folder(tmp_path / "file", {"a": b"1"})
    (tmp_path / "out" / "b").mkdir(parents=True)
    with pytest.raises(IsADirectoryError, match="holds a folder b"):
        write_folder(tmp_path / "out", {"a": b"1", "b": b"2"})
    assert names(tmp_path / "out") == ["b"] and names(tmp_path) == ["file", "out"]
