"""An arm64 Python with numpy alone, run by QEMU: what `tools/setup.sh tests` has unpacked beside this environment."""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
HOME = Path(sys.prefix) / "arm64"
PYTHON = HOME / "usr/bin/python3"
_LIBRARIES = "/usr/lib/aarch64-linux-gnu"

needs_arm64 = pytest.mark.skipif(
    not PYTHON.exists() or shutil.which("qemu-aarch64") is None,
    reason="needs qemu-aarch64, and the arm64 Python that tools/setup.sh unpacks",
)


def run(script: str, *arguments: str, cpu: str = "max,sve=off") -> subprocess.CompletedProcess[str]:
    """Run a script on a CPU as QEMU names it."""
    emulator = ["qemu-aarch64", "-cpu", cpu, "-L", str(HOME)]
    for setting in (f"LD_LIBRARY_PATH={_LIBRARIES}/blas:{_LIBRARIES}/lapack", f"PYTHONPATH={ROOT}"):
        emulator += ["-E", setting]
    command = [*emulator, str(PYTHON.resolve()), "-W", "ignore", "-c", script, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=False, timeout=300)
