"""The programs that emulation needs: cross compilers, QEMU, and the counting plugin."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Sequence
from hashlib import sha256
from importlib.resources import files
from pathlib import Path

from fxquant.errors import FxquantError
from fxquant.target import Target


class EmulationError(FxquantError):
    """A program cannot be built or run for a target; the message says which, and what to install."""


class NoRoom(EmulationError):
    """The program or its stack is too large for the emulated board."""


# What linkers say then; the first are the words of our own script.
_NO_ROOM = ("too little RAM", "will not fit in region", "overflowed by")


def resource(name: str) -> str:
    """The text of a file that ships with this package."""
    return (files("fxquant.tools.emulate") / "files" / name).read_text()


def missing(target: Target) -> str:
    """Why the target cannot be emulated here, with the remedy; "" if it can."""
    tools = target.toolchain
    if tools is None:
        return f"the target {target.name} names no toolchain (see fxquant.target.Toolchain)"
    wanted = [tools.compiler, *tools.emulator[:1], "gcc"]
    absent = [program for program in wanted if shutil.which(program) is None]
    return f"{' and '.join(absent)} not found: apt-get install {' '.join(tools.debian)} gcc" if absent else ""


def require(target: Target) -> None:
    """Raise EmulationError unless the target's programs are here."""
    reason = missing(target)
    if reason:
        raise EmulationError(f"cannot emulate {target.name}: {reason}")


def run(command: Sequence[str], what: str, timeout: float = 600) -> str:
    """Run a program and give what it prints. Raises EmulationError with its words if it fails."""
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except FileNotFoundError as error:
        raise EmulationError(f"{what}: {command[0]} is not installed") from error
    except subprocess.TimeoutExpired as error:
        raise EmulationError(f"{what}: {command[0]} took more than {timeout:.0f} s") from error
    said = done.stdout + done.stderr
    if done.returncode:
        kind = NoRoom if any(text in said for text in _NO_ROOM) else EmulationError
        raise kind(f"{what}: {command[0]} failed ({done.returncode}): {(done.stderr + done.stdout)[-2000:]}")
    return said


def plugin() -> Path:
    """The counting plugin, compiled once per version into the user's cache."""
    source = resource("counter.c")
    home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fxquant"
    library = home / f"counter-{sha256(source.encode()).hexdigest()[:12]}.so"
    if not library.exists():
        home.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(dir=home) as folder:
            text, fresh = Path(folder) / "counter.c", Path(folder) / "counter.so"
            text.write_text(source)
            run(["gcc", "-O2", "-shared", "-fPIC", "-o", str(fresh), str(text)], "compiling the counting plugin")
            os.replace(fresh, library)
    return library
