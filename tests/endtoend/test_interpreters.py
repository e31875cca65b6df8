"""The smoke test under every other Python that is found with what fxquant needs: on the PATH, or in FXQUANT_PYTHONS."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent.parent
VERSIONS = ("3.11", "3.12", "3.13")
# Also pytest, which runs the test there.
NEEDED = ("torch", "tvm", "numpy", "elftools", "pytest")


def _interpreters() -> list[str]:
    named = [path for path in os.environ.get("FXQUANT_PYTHONS", "").split(os.pathsep) if path]
    return named + [path for version in VERSIONS if (path := shutil.which(f"python{version}"))]


def _asked(python: str, code: str) -> str:
    found = subprocess.run([python, "-c", code], capture_output=True, text=True, check=False, timeout=60)
    return found.stdout.strip() if found.returncode == 0 else ""


def _others() -> dict[str, str]:
    """One interpreter for each version of Python but this one, or why there is none."""
    own, found = f"{sys.version_info.major}.{sys.version_info.minor}", {}
    for version in VERSIONS:
        if version != own:
            found[version] = "no such interpreter: name one in FXQUANT_PYTHONS"
    missing = f"import importlib.util as u; print([n for n in {NEEDED!r} if u.find_spec(n) is None])"
    for python in _interpreters():
        version = _asked(python, "import sys; print('%d.%d' % sys.version_info[:2])")
        if version in found and not os.path.isabs(found[version]):
            lacking = _asked(python, missing)
            found[version] = os.path.abspath(python) if lacking == "[]" else f"{python} lacks {lacking or 'everything'}"
    return found


@pytest.mark.parametrize("version", VERSIONS)
def test_the_whole_road(version: str) -> None:
    python = _others().get(version, "this is the one that runs the tests")
    if not os.path.isabs(python) or " lacks " in python:
        pytest.skip(f"Python {version}: {python}")
    test = ["-m", "pytest", "-q", "-n", "0", "-p", "no:cacheprovider", "tests/endtoend/test_smoke.py"]
    run = subprocess.run([python, *test], cwd=ROOT, capture_output=True, text=True, check=False, timeout=550)
    assert run.returncode == 0, run.stdout[-4000:]
