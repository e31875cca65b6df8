"""A shared library of one object, by the target's own compiler."""

from __future__ import annotations

import subprocess
import tempfile
from pathlib import Path

from fxquant.errors import TargetError
from fxquant.target import Target
from fxquant.targets.standalone.cpu import questions
from fxquant.targets.standalone.folder import render


def linked(data: bytes, name: str, target: Target) -> bytes:
    """The library of a network's object, with `<name>_supported()`, which asks the CPU for its instructions.

    Raises TargetError without a toolchain, where its compiler is missing or fails, or where it is unknown what the code
    needs of a CPU.
    """
    tools = target.toolchain
    if tools is None:
        raise TargetError(f"{target.name} names no toolchain, and a shared library must be linked")
    with tempfile.TemporaryDirectory() as folder:
        code, question, result = (Path(folder) / file for file in ("network.o", "cpu.c", f"lib{name}.so"))
        code.write_bytes(data)
        question.write_text(render("cpu.c.j2", {"name": name, **questions(target)}))
        made = ["-O2", "-fPIC", "-shared", "-nostartfiles", "-Wl,-z,now,-Bsymbolic", "-o", str(result)]
        try:
            command = [tools.compiler, *tools.flags, *made, str(code), str(question), "-lm"]
            done = subprocess.run(command, capture_output=True, text=True, check=False)
        except FileNotFoundError as error:
            packages = " ".join(tools.debian)
            raise TargetError(
                f"linking for {target.name} needs {tools.compiler}, which is not here: apt-get install {packages}"
            ) from error
        if done.returncode:
            raise TargetError(f"{tools.compiler} could not link lib{name}.so:\n{done.stderr.strip()}")
        return result.read_bytes()
