"""What tests share: texts kept in files (`golden`), rewritten by `pytest --update-golden`."""

from __future__ import annotations

import gc
import os
import tempfile
from collections.abc import Callable
from pathlib import Path

import pytest

# What a test has compiled or quantized serves all tests of this run, those of other processes too, and nobody else's.
if "PYTEST_XDIST_WORKER" not in os.environ:
    _SHARED = tempfile.TemporaryDirectory(prefix="fxquant-tests-")
    os.environ["FXQUANT_TESTS"] = _SHARED.name
    os.environ["FXQUANT_CACHE"] = os.path.join(_SHARED.name, "cache")

# Two processes run tests, a core for each: torch's own threads would wait for each other, which burns four to ten times
# the time that they compute. Tests that are about threads set their number.
os.environ.setdefault("OMP_NUM_THREADS", "1")

# Tracing makes millions of small objects that live long. Looking through all of them whenever 700 more have been made
# took a sixth of all tests' time.
gc.set_threshold(100_000, 50, 100)


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds --update-golden."""
    parser.addoption("--update-golden", action="store_true", help="write what the tests give instead of comparing")


@pytest.fixture
def golden(request: pytest.FixtureRequest) -> Callable[[str], None]:
    """Compares a text with the file golden/<module>/<test>.txt beside the test module."""
    folder = Path(request.path).parent / "golden" / request.path.stem.removeprefix("test_")
    path = folder / f"{request.node.name.removeprefix('test_')}.txt"

    def compare(text: str) -> None:
        found = text.rstrip() + "\n"
        if request.config.getoption("--update-golden"):
            folder.mkdir(parents=True, exist_ok=True)
            path.write_text(found, encoding="utf-8")
            return
        if not path.exists():
            pytest.fail(f"{path} is missing: look at the result, then run pytest --update-golden\n{found}")
        assert found == path.read_text(encoding="utf-8"), f"{path.name} differs; pytest --update-golden accepts it"

    return compare
