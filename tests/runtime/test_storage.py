"""The .fxq file: what is written is read, and anything else is refused by name before its code is used."""

from __future__ import annotations

import errno
import os
import resource
import struct
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from fxquant.errors import (
    AlteredError,
    ArtifactError,
    ArtifactWriteError,
    ForeignFileError,
    NewerFormatError,
    OlderFormatError,
    OutOfMemoryError,
    TruncatedError,
    WrongMachineError,
)
from fxquant.runtime import Artifact, CompiledModel, Port, host, load, read, storage, write
from fxquant.runtime.memory import allocate
from tests.runtime.forging import signed_again
from tests.runtime.objects import mirror, mirrored

CPUINFO = "processor\t: 0\nflags\t\t: fpu sse2 pni avx2 avx512_vnni\nprocessor\t: 1\nflags\t\t: fpu sse2 pni avx2\n"


def artifact(**changes: Any) -> Artifact:
    fields: dict[str, Any] = {"code": bytes(range(256)) * 3, "weights": os.urandom(1000), "cpu_features": ()}
    return mirror(**(fields | changes))


@pytest.fixture
def saved(tmp_path: Path) -> Path:
    return write(artifact(), tmp_path / "model.fxq")


def test_what_is_written_is_read(tmp_path: Path) -> None:
    report = {"layers": [{"name": "conv", "macs": 3}], "sqnr": float("inf")}
    original = artifact(
        report=report, target={"kind": "llvm", "mattr": ["+avx2"]}, arena_bytes=123, resident_bytes=4567
    )
    copy = read(write(original, tmp_path / "model.fxq"))
    for name in (
        "name",
        "target",
        "machine",
        "versions",
        "inputs",
        "outputs",
        "batched",
        "arena_bytes",
        "code",
        "report",
        "resident_bytes",
    ):
        assert getattr(copy, name) == getattr(original, name), name
    assert bytes(copy.weight_view) == bytes(original.weight_view)
    assert copy.outputs[0] == Port("y", "int32", (1, 16, 32), 0.5, -3, -128, 127)


def test_weights_are_aligned_and_belong_to_the_process(saved: Path) -> None:
    weights = read(saved).weights
    assert isinstance(weights, np.ndarray)
    assert not weights.flags.writeable
    assert weights.ctypes.data % 64 == 0
    assert str(saved) not in Path("/proc/self/maps").read_text()


def test_overwriting_a_loaded_file_changes_nothing(tmp_path: Path) -> None:
    path = write(mirror(), tmp_path / "mirror.fxq")
    x = np.arange(16 * 32, dtype=np.int32).reshape(1, 16, 32)
    with load(path, threads=2) as model:
        expected = mirrored(x)
        with path.open("r+b") as file:  # in place, as cp and rsync --inplace do
            file.write(os.urandom(path.stat().st_size))
        np.testing.assert_array_equal(model(x), expected)
        os.truncate(path, 10)
        np.testing.assert_array_equal(model(x), expected)
        model.save(path)
    with load(path, threads=1) as again:
        np.testing.assert_array_equal(again(x), expected)


def test_a_file_that_changes_while_it_is_read_is_refused(saved: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def shorten(size: int) -> Any:
        os.truncate(saved, 100)
        return allocate(size)

    monkeypatch.setattr(storage, "allocate", shorten)
    with pytest.raises(AlteredError, match="was written to while it was read"):
        read(saved)


@pytest.mark.parametrize("weights", [b"", bytearray(b"abc"), memoryview(b"abcd"), np.arange(9, dtype=np.uint8)])
def test_any_bytes_serve_as_weights(tmp_path: Path, weights: Any) -> None:
    assert bytes(read(write(artifact(weights=weights), tmp_path / "m.fxq")).weight_view) == bytes(weights)


def test_every_flipped_byte_is_noticed(saved: Path) -> None:
    good = saved.read_bytes()
    for place in [*range(64), *range(64, len(good), 3)]:
        bad = bytearray(good)
        bad[place] ^= 1 << place % 8
        saved.write_bytes(bad)
        with pytest.raises(ArtifactError, match=r"model\.fxq"):
            read(saved)
    saved.write_bytes(good)
    read(saved)


def test_every_truncation_is_noticed(saved: Path) -> None:
    good = saved.read_bytes()
    for length in [*range(1, 70), *range(70, len(good), 17), len(good) - 1]:
        saved.write_bytes(good[:length])
        with pytest.raises(TruncatedError, match="copy it again"):
            read(saved)
    saved.write_bytes(good + b"\0")
    with pytest.raises(AlteredError, match="checksum"):
        read(saved)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (b"", "is empty"),
        (b"PK\x03\x04" + bytes(100), "zip archive"),
        (b"\x7fELF\x02\x01" + bytes(100), "ELF object"),
        (b"\x80\x02}q\x00", "pickle"),
        (b"hello", "another kind of file"),
        (storage.MAGIC.replace(b"\r\n", b"\n") + bytes(99), "another kind of file"),
    ],
)
def test_foreign_files_are_named(tmp_path: Path, content: bytes, message: str) -> None:
    path = tmp_path / "other"
    path.write_bytes(content)
    with pytest.raises(ForeignFileError, match=message):
        read(path)


def test_absent_files_are_named(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"cannot read .*none\.fxq"):
        read(tmp_path / "none.fxq")
    with pytest.raises(ArtifactError, match="cannot read"):
        read(tmp_path)


def test_newer_format_is_refused(saved: Path) -> None:
    data = bytearray(saved.read_bytes())
    data[8:12] = struct.pack("<I", storage.FORMAT + 1)
    saved.write_bytes(data)
    with pytest.raises(NewerFormatError, match="update fxquant"):
        read(saved)


@pytest.mark.parametrize("version", [0, 1, 2])
def test_older_formats_are_refused(saved: Path, version: int) -> None:
    saved.write_bytes(signed_again(saved.read_bytes()[:8] + struct.pack("<I", version) + saved.read_bytes()[12:]))
    with pytest.raises(OlderFormatError, match=f"has format {version}, .*compile the model again"):
        read(saved)


@pytest.mark.parametrize(("place", "value"), [(56, 1), (56, 64), (60, 1), (12, 1 << 30)])
def test_a_prefix_that_does_not_fit_is_refused(saved: Path, place: int, value: int) -> None:
    data = bytearray(saved.read_bytes())
    data[place : place + 4] = value.to_bytes(4, "little")
    saved.write_bytes(signed_again(data))
    with pytest.raises(AlteredError, match="lengths in its prefix"):
        read(saved)


def test_only_files_are_read(tmp_path: Path) -> None:
    os.mkfifo(tmp_path / "pipe")
    for path in (tmp_path / "pipe", Path("/dev/zero")):
        with pytest.raises(ForeignFileError, match=f"cannot read {path}: it is not a regular file"):
            read(path)
    for name in (tmp_path, "nul\0.fxq"):
        with pytest.raises(ArtifactError, match="cannot read"):
            read(name)


def test_a_file_larger_than_memory_is_named(saved: Path) -> None:
    size = 1 << 43  # sparse: it takes no room on the disk
    data = saved.read_bytes()
    saved.write_bytes(data[:16] + struct.pack("<Q", size) + data[24:])
    try:
        os.truncate(saved, size)
    except OSError:
        pytest.skip("this file system has no files of 8 TiB")
    with pytest.raises(OutOfMemoryError, match=f"no {size} bytes of memory"):
        read(saved)


def test_another_machine_is_refused(tmp_path: Path) -> None:
    path = write(artifact(machine="aarch64"), tmp_path / "arm.fxq")
    with pytest.raises(WrongMachineError, match=r"arm\.fxq is compiled for aarch64, this machine is .*compile"):
        read(path)
    assert read(path, any_host=True).machine == "aarch64"


def test_missing_cpu_features_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "cpuinfo").write_text(CPUINFO)
    monkeypatch.setattr(host, "_CPUINFO", tmp_path / "cpuinfo")
    host.host_features.cache_clear()
    try:
        assert host.host_features() == {"fpu", "sse2", "pni", "avx2"}  # what both cores have
        path = write(artifact(cpu_features=("avx2", "avx512_vnni")), tmp_path / "m.fxq")
        with pytest.raises(WrongMachineError, match="needs the CPU features avx512_vnni"):
            read(path)
        with pytest.raises(WrongMachineError, match="avx512vnni"):
            CompiledModel(mirror(cpu_features=("avx512vnni",)))
        read(write(artifact(cpu_features=("+avx2", "sse3")), path))
    finally:
        host.host_features.cache_clear()


@pytest.mark.parametrize("call", ["write", "fsync", "replace", "open"])
def test_a_full_disk_leaves_the_old_file_and_nothing_else(
    saved: Path, monkeypatch: pytest.MonkeyPatch, call: str
) -> None:
    good = saved.read_bytes()

    def fail(*_: Any, **__: Any) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(os, call, fail)
    with pytest.raises(ArtifactWriteError, match=r"No space left on device; nothing was left behind"):
        write(artifact(), saved)
    monkeypatch.undo()
    assert [path.name for path in saved.parent.iterdir()] == ["model.fxq"]
    assert saved.read_bytes() == good


def test_a_write_cut_short_by_the_kernel(tmp_path: Path) -> None:
    script = (
        "import resource, signal, sys\n"
        "from fxquant.runtime import Artifact, Port, write\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, (5000, {resource.RLIM_INFINITY}))\n"
        "port = Port('x', 'int8', (1,))\n"
        "a = Artifact('m', {}, (), 'x86_64', {}, (port,), (port,), True, 0, 0, 0, bytes(20000), b'')\n"
        "write(a, sys.argv[1])\n"
    )
    target = tmp_path / "big.fxq"
    done = subprocess.run([sys.executable, "-c", script, str(target)], capture_output=True, text=True, check=False)
    assert "ArtifactWriteError: cannot write" in done.stderr
    assert list(tmp_path.iterdir()) == []


def test_writing_into_nowhere(tmp_path: Path) -> None:
    with pytest.raises(ArtifactWriteError, match="No such file or directory"):
        write(artifact(), tmp_path / "absent" / "m.fxq")


def test_writing_through_a_link_keeps_the_link(saved: Path) -> None:
    link = saved.with_name("link.fxq")
    link.symlink_to(saved)
    write(artifact(name="second"), link)
    assert link.is_symlink()
    assert read(saved).name == "second"


def test_the_file_obeys_the_umask(tmp_path: Path) -> None:
    before = os.umask(0o027)
    try:
        assert write(artifact(), tmp_path / "m.fxq").stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_a_report_must_be_json(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match="not plain JSON"):
        write(artifact(report={"layer": object()}), tmp_path / "m.fxq")
