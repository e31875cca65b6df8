"""`python -m fxquant.runtime`: arrays in, arrays out, with nothing installed but numpy."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from fxquant.runtime import write
from fxquant.runtime.__main__ import main
from tests.runtime.objects import COLUMNS, ROWS, mirror, mirrored, pair

KEY = b"k" * 32
X = np.arange(2 * ROWS * COLUMNS, dtype=np.int32).reshape(2, ROWS, COLUMNS)

# As if they were not installed.
ALONE = """
import runpy, sys
sys.modules.update(dict.fromkeys("torch tvm tvm_ffi typer click rich jinja2 networkx elftools".split()))
sys.argv[0] = "fxquant.runtime"
runpy.run_module("fxquant.runtime", run_name="__main__")
"""


@pytest.fixture
def model(tmp_path: Path) -> str:
    return str(write(mirror(), tmp_path / "mirror.fxq", key=KEY))


def test_numpy_is_enough(model: str, tmp_path: Path) -> None:
    np.savez(tmp_path / "x.npz", x=X)
    arguments = [model, "--inputs", str(tmp_path / "x.npz"), "-o", str(tmp_path / "y.npz"), "--threads", "2"]
    done = subprocess.run([sys.executable, "-c", ALONE, *arguments], capture_output=True, text=True, timeout=60)
    assert (done.returncode, done.stderr, done.stdout) == (0, "", "y: int32[2, 16, 32]\n")
    np.testing.assert_array_equal(np.load(tmp_path / "y.npz")["y"], mirrored(X))


def test_several_arrays_go_by_name_and_a_single_one_needs_none(model: str, tmp_path: Path) -> None:
    np.save(tmp_path / "x.npy", X)
    assert main([model, "--inputs", str(tmp_path / "x.npy"), "--threads", "1"]) == 0
    np.savez(tmp_path / "both.npz", b=np.zeros((1, 2, 2), np.float32), a=np.ones((1, 8), np.int32))
    found = tmp_path / "found.npz"
    path = str(write(pair(), tmp_path / "pair.fxq"))
    assert main([path, "--inputs", str(tmp_path / "both.npz"), "-o", str(found)]) == 0
    assert (np.load(found)["doubled"] == 2).all() and (np.load(found)["grown"] == 1.5).all()


def test_without_inputs_it_says_what_the_model_is(model: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([model, "--threads", "1"]) == 0
    assert "in  x: int32[N, 16, 32]" in capsys.readouterr().out


def test_errors_are_one_line(model: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for name, content in (("key", KEY), ("other", b"o" * 32), ("objects.npy", b"\x93NUMPY junk")):
        (tmp_path / name).write_bytes(content)
    np.savez(tmp_path / "wrong.npz", z=X, x=X)
    (tmp_path / "cut.npz").write_bytes((tmp_path / "wrong.npz").read_bytes()[:-100])
    np.save(tmp_path / "pickled.npy", np.array([{}], object), allow_pickle=True)
    assert main([model, "--trusted", str(tmp_path / "key")]) == 0
    capsys.readouterr()
    for arguments, message in (
        ([str(tmp_path / "none.fxq")], "cannot read"),
        ([model, "--trusted", str(tmp_path / "other")], "is signed with another key"),
        ([model, "--trusted", str(tmp_path / "none")], "No such file"),
        ([model, "--threads", "100000"], "got 100000 threads"),
        ([model, "--inputs", str(tmp_path / "none.npz")], "No such file"),
        ([model, "--inputs", str(tmp_path / "wrong.npz")], "the file holds z, x; the model takes x"),
        ([model, "--inputs", str(tmp_path / "cut.npz")], "not an .npy or .npz file of plain numbers"),
        ([model, "--inputs", str(tmp_path / "objects.npy")], "not an .npy or .npz file of plain numbers"),
        ([model, "--inputs", str(tmp_path / "pickled.npy")], "not an .npy or .npz file of plain numbers"),
    ):
        assert main(arguments) == 1
        error = capsys.readouterr().err
        assert error.startswith("error: ") and message in error and error.count("\n") == 1
