"""Files that are junk, given to every command that reads one: one line that says so, and nothing unsafe to try."""

from __future__ import annotations

import io
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray
from typer.testing import CliRunner

from fxquant.cli import app
from tests.core.test_cli import SCRIPT

UNSAFE = ("allow_pickle", "weights_only", "unsafe", "untrusted", "Traceback")


def _archive(compression: int = zipfile.ZIP_DEFLATED) -> bytes:
    held = io.BytesIO()
    with zipfile.ZipFile(held, "w", compression) as archive:
        archive.writestr("x.npy", b"no array at all" * 50)
    return held.getvalue()


def _encrypted() -> bytes:
    data = bytearray(_archive())
    for mark, at in ((b"PK\x03\x04", 6), (b"PK\x01\x02", 8)):
        data[data.index(mark) + at] |= 1
    return bytes(data)


def _saved(array: NDArray[Any]) -> bytes:
    held = io.BytesIO()
    np.save(held, array, allow_pickle=True)
    return held.getvalue()


def _endless() -> bytes:
    return _saved(np.zeros(3, np.float32)).replace(b"(3,)", b"(" + b"9" * 17 + b",)", 1)


JUNK: dict[str, Callable[[], bytes]] = {
    "empty": bytes,
    "text": lambda: b"these are not the numbers you look for\n",
    "latin": lambda: bytes(range(128, 256)) * 4,
    "zeros": lambda: bytes(4096),
    "archive": _archive,
    "lzma": lambda: _archive(zipfile.ZIP_LZMA)[:-3],
    "cut": lambda: _archive()[:-30],
    "encrypted": _encrypted,
    "objects": lambda: _saved(np.array([{"a": 1}], dtype=object)),
    "words": lambda: _saved(np.array(["a", "b"])),
    "endless": _endless,
    "cut array": lambda: _saved(np.zeros(100, np.float32))[:-7],
    "deep": lambda: b"[" * 100_000,
    "object": lambda: b'{"weight": {"bits": [[[[1]]]]}}',
}

COMMANDS: dict[str, tuple[str, ...]] = {
    "run it": ("run", "{junk}.fxq", "--inputs", "{good}.npy"),
    "report it": ("report", "{junk}.fxq"),
    "calibrate with it": ("quantize", "{net}:model", "--calibrate", "{junk}.npz"),
    "trace with it": ("trace", "{net}:Net", "--inputs", "{junk}.npy"),
    "ask it": ("quantize", "{net}:model", "--calibrate", "{good}.npy", "--recipe", "{junk}.json"),
    "ask it in TOML": ("quantize", "{net}:model", "--calibrate", "{good}.npy", "--recipe", "{junk}.toml"),
    "resume from it": ("quantize", "{net}:model", "--calibrate", "{good}.npy", "--checkpoint", "{junk}.ckpt"),
}


@pytest.mark.parametrize("junk", JUNK)
def test_junk_gets_one_line(junk: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(SCRIPT)
    np.save(tmp_path / "good.npy", np.random.default_rng(0).standard_normal((8, 2, 6, 6), np.float32))
    content = JUNK[junk]()
    for suffix in ("fxq", "npz", "npy", "json", "toml", "ckpt"):
        (tmp_path / f"junk.{suffix}").write_bytes(content)
    for what, command in COMMANDS.items():
        if what == "ask it in TOML" and junk == "empty":
            continue  # an empty TOML file is a recipe that asks for nothing
        words = [word.format(junk="junk", good="good", net="net.py") for word in command]
        result = CliRunner().invoke(app, words)
        said = result.stderr.strip()
        assert result.exit_code == 1 and isinstance(result.exception, SystemExit), (what, result.exception)
        assert said.startswith("error: ") and "junk." in said and len(said) < 600, (what, said)
        assert not any(word in said for word in UNSAFE), (what, said)


def test_nothing_is_written_where_junk_was_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.py").write_text(SCRIPT)
    (tmp_path / "junk.npz").write_bytes(b"junk")
    result = CliRunner().invoke(app, ["quantize", "net.py:model", "--calibrate", "junk.npz", "-o", "model.graph"])
    assert result.exit_code == 1
    assert sorted(p.name for p in tmp_path.iterdir() if p.is_file()) == ["junk.npz", "net.py"]
