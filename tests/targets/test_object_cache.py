"""The cache of object code: the same bytes much sooner, never a wrong one, and no error that stops a compilation."""

from __future__ import annotations

import os
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import fx, nn

import fxquant
from fxquant.targets import object_cache
from tests.targets.standalone.made import quantized


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("FXQUANT_CACHE", str(tmp_path / "cache"))
    return tmp_path / "cache"


@pytest.fixture
def built(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """One entry for each time that code was really generated."""
    times: list[int] = []
    honest = object_cache._built

    def counting(*arguments: Any) -> bytes:
        times.append(1)
        return honest(*arguments)

    monkeypatch.setattr(object_cache, "_built", counting)
    return times


def objects(folder: Path) -> list[Path]:
    """The entries that are code; proofs of memory safety lie beside them."""
    return sorted(folder.glob("*.o"))


def linear(seed: int = 0, width: int = 4) -> fx.GraphModule:
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        return quantized(nn.Linear(8, width), torch.randn(4, 8))


def code(graph: fx.GraphModule, target: str = "native") -> bytes:
    with fxquant.compile(graph, target, against_float=False) as net:
        return net.artifact.code


def test_a_second_compilation_takes_the_first_ones_code(folder: Path, built: list[int]) -> None:
    first = code(linear())
    assert len(built) == 1 and len(objects(folder)) == 1
    assert code(linear()) == first and len(built) == 1
    # Other weights of the same shape are other constants beside the same code.
    assert code(linear(seed=1)) == first and len(built) == 1
    assert code(linear(width=5)) != first and len(built) == 2


def test_targets_do_not_share(folder: Path, built: list[int], tmp_path: Path) -> None:
    graph = linear()
    for target in ("cortex-m4", "cortex-m55", "cortex-m4"):
        fxquant.export(graph, target, tmp_path / target)
    assert len(built) == 2


def test_cached_code_computes_the_same_in_another_process(folder: Path) -> None:
    program = (
        "import torch, fxquant; from fxquant.targets import object_cache as c\n"
        "def fail(*a): raise SystemExit('compiled again')\n"
        "from tests.targets.test_object_cache import linear\n"
        "graph = linear(); x = torch.randn(3, 8)\n"
        "import sys\n"
        "if sys.argv[1] == 'again': c._built = fail\n"
        "assert torch.equal(fxquant.compile(graph, against_float=False)(x), graph(x))\n"
    )
    root = str(Path(__file__).resolve().parents[2])
    for turn in ("first", "again"):
        environment = {**os.environ, "PYTHONPATH": root}
        done = subprocess.run([sys.executable, "-c", program, turn], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stderr


def damages() -> Iterator[tuple[str, Any]]:
    yield "truncated", lambda data: data[: len(data) // 2]
    yield "empty", lambda data: b""
    yield "altered", lambda data: data[:-1] + bytes([data[-1] ^ 1])
    yield "foreign", lambda data: b"not ours at all" * 100


@pytest.mark.parametrize(("damage"), [pytest.param(d, id=name) for name, d in damages()])
def test_a_damaged_entry_is_compiled_anew(damage: Any, folder: Path, built: list[int]) -> None:
    first = code(linear())
    (entry,) = objects(folder)
    whole = entry.read_bytes()
    entry.write_bytes(damage(whole))
    assert code(linear()) == first and len(built) == 2
    assert entry.read_bytes() == whole


def test_off_means_nowhere(folder: Path, built: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("FXQUANT_CACHE", "off")
    assert code(linear()) == code(linear()) and len(built) == 2 and not folder.exists()


def test_the_usual_place(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.delenv("FXQUANT_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert object_cache.cache_folder() == tmp_path / "fxquant" / "objects"


def test_a_folder_that_cannot_be_written_costs_a_warning(
    built: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "file").write_text("no folder")
    monkeypatch.setenv("FXQUANT_CACHE", str(tmp_path / "file" / "cache"))
    with pytest.warns(UserWarning, match="compiled code is not kept in .*FXQUANT_CACHE names another folder, or off"):
        assert code(linear())
    assert len(built) == 1


def test_a_full_disk_leaves_no_part(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def full(descriptor: int) -> None:
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(os, "fsync", full)
    with pytest.warns(UserWarning, match="No space left on device"):
        code(linear())
    assert list(folder.iterdir()) == []


def test_files_that_are_no_entries_are_never_removed(
    folder: Path, built: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    folder.mkdir()
    (folder / "firmware.o").write_bytes(b"the user's own" * 1000)
    os.utime(folder / "firmware.o", (1, 1))
    monkeypatch.setattr(object_cache, "MOST_BYTES", 1)
    code(linear())
    assert [path.name for path in folder.iterdir()] == ["firmware.o"] and len(built) == 1


def test_a_user_without_a_home_has_no_cache(monkeypatch: pytest.MonkeyPatch) -> None:
    def homeless() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.delenv("FXQUANT_CACHE", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr(Path, "home", homeless)
    assert object_cache.cache_folder() is None


def test_the_least_recently_used_go_first(folder: Path, built: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    code(linear(width=4))
    (old,) = objects(folder)
    monkeypatch.setattr(object_cache, "MOST_BYTES", int(old.stat().st_size * 2.5))
    code(linear(width=5))
    os.utime(old, (1, 1))
    # Used again: now the other one is older.
    code(linear(width=4))
    for entry in objects(folder):
        if entry != old:
            os.utime(entry, (1, 1))
            other = entry
    code(linear(width=6))
    assert old.exists() and not other.exists() and len(objects(folder)) == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        code(linear(width=4))
    assert len(built) == 3
