"""Build the files of a standalone model into a program, and run it under emulation."""

from __future__ import annotations

import re
import tempfile
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from elftools.elf.elffile import ELFFile
from jinja2 import Template

from fxquant.target import Target, Toolchain
from fxquant.tools.emulate.programs import EmulationError, NoRoom, plugin, require, resource, run

# Words of stack that can be measured: without an operating system, and with one.
STACK_WORDS, HOSTED_STACK_WORDS = 8192, 65536
# Painted words at the far end that must be left: where they are not, the stack is deeper than what was painted.
_SPARE_WORDS = 256


@dataclass(frozen=True)
class Board:
    """Where a board of QEMU has its memory, and how much of it."""

    flash_start: str = "0x00000000"
    ram_start: str = "0x20000000"
    flash: str = "512K"
    ram: str = "512K"


_BOARDS = {
    "mps2-an505": Board("0x10000000", "0x38000000", "4M", "4M"),
    "microbit": Board(flash="256K", ram="16K"),
}


@dataclass(frozen=True)
class ModelRun:
    """`wrong` elements of the golden vectors; instructions of one run, in all and by layer; bytes of stack.

    Instructions are None where the code ran on this machine itself, layers where the code has no marks. `machine` is
    what QEMU emulated: a board or a CPU, "" for none. `step` are the instructions of a step of training.
    """

    wrong: int
    instructions: int | None
    layers: tuple[int, ...] | None
    stack_bytes: int
    machine: str = ""
    step: int | None = None


def emulate(made_files: Mapping[str, str | bytes], name: str, report: Mapping[str, Any], target: Target) -> ModelRun:
    """Run a model that `fxquant.export` made, from its files by name.

    Raises EmulationError, and NoRoom for a model that is too large for the emulated board.
    """
    require(target)
    tools = target.toolchain
    assert tools is not None
    found = _emulated(made_files, name, report, target, tools.emulator, STACK_WORDS)
    if not tools.core:
        return found
    try:
        return _emulated(made_files, name, report, target, tools.core, found.stack_bytes // 4 + 2 * _SPARE_WORDS)
    except NoRoom:
        return found


def _emulated(
    made_files: Mapping[str, str | bytes], name: str, report: Mapping[str, Any], target: Target,
    emulator: tuple[str, ...], stack_words: int,
) -> ModelRun:  # fmt: skip
    """A run on the machine of `emulator`, without an operating system with `stack_words` of stack."""
    assert target.toolchain is not None
    tools = replace(target.toolchain, emulator=emulator)
    words = stack_words if tools.machine else HOSTED_STACK_WORDS
    text, counts = said(made_files, name, report, tools, words)
    step = None
    if report.get("training") and len(counts) > 4:  # the last two marks are around a step
        step, counts = counts[-2], [*counts[:-3], sum(counts[-3:])]
    return replace(_result(text, counts, len(report["layers"]), words), machine=_machine(emulator), step=step)


def said(
    made_files: Mapping[str, str | bytes], name: str, report: Mapping[str, Any], tools: Toolchain,
    stack_words: int = STACK_WORDS, main: str = "main.c.j2",
) -> tuple[str, list[int]]:  # fmt: skip
    """What a program of `main` around the model's files prints, and the instructions between its marks.

    Without an emulator there are none. `report` is what the template is rendered with.
    """
    with tempfile.TemporaryDirectory() as at:
        folder = Path(at)
        for file, content in made_files.items():
            (folder / file).write_bytes(content.encode() if isinstance(content, str) else content)
        program = build(folder, name, report, tools, stack_words, main)
        text = run(_command(program, folder, name, tools), f"running {name}")
        return text, [int(line) for line in (folder / "counts").read_text().split()] if tools.emulator else []


def _machine(emulator: tuple[str, ...]) -> str:
    """The board or CPU of a QEMU command."""
    option = "-M" if "-M" in emulator else "-cpu"
    return emulator[emulator.index(option) + 1] if option in emulator else ""


def build(
    folder: Path, name: str, report: Mapping[str, Any], tools: Toolchain, stack_words: int = STACK_WORDS,
    main: str = "main.c.j2",
) -> Path:  # fmt: skip
    """Compile the main program of a template around the model's files."""
    facts = {**report, "name": name, "stack_words": stack_words}
    text = Template(resource(main), trim_blocks=True, lstrip_blocks=True).render(facts)
    (folder / "emulated.c").write_text(text)
    (folder / "board.h").write_text(resource("board.h"))
    start = {"cortex-m": "cortex_m.c", "riscv": "riscv.c", "": "linux.c"}[tools.machine]
    (folder / start).write_text(resource(start))
    sources = [folder / f for f in (start, "emulated.c", f"{name}_selftest.c")]
    code = next(folder / f for f in (f"lib{name}.a", f"lib{name}.so", f"{name}.c") if (folder / f).exists())
    program = folder / "program"
    flags = [*tools.flags, "-O2", f"-I{folder}", *_linking(folder, tools, stack_words)]
    files = [str(f) for f in (*sources, code)]
    after = (
        ["-lgcc"]
        if tools.machine == "riscv"
        else ["-lc", "-lgcc"]
        if tools.machine
        else ["-Wl,-rpath,$ORIGIN,-z,now", "-lm"]
    )
    run([tools.compiler, *flags, *files, *after, "-o", str(program)], f"building {name}")
    return program


def _linking(folder: Path, tools: Toolchain, stack_words: int) -> list[str]:
    """How a program is laid out on its machine."""
    if not tools.machine:
        return ["-no-pie"]
    script = resource(f"{tools.machine.replace('-', '_')}.ld")
    if tools.machine == "cortex-m":
        board = _BOARDS.get(_machine(tools.emulator), Board())
        script = script.replace("0x00000000", board.flash_start).replace("@RAM_START@", board.ram_start)
        script = script.replace("@FLASH@", board.flash).replace("@RAM@", board.ram)
        script = script.replace("@STACK@", str(4 * stack_words + 1024))
    (folder / "link.ld").write_text(script)
    return ["-nostdlib", "-nostartfiles", "-ffreestanding" if tools.machine == "riscv" else "-fno-builtin",
            "-Wl,--gc-sections", "-Wl,--no-warn-rwx-segments", "-T", str(folder / "link.ld")]  # fmt: skip


def _command(program: Path, folder: Path, name: str, tools: Toolchain) -> list[str]:
    if not tools.emulator:
        return [str(program)]
    counting = ["-plugin", f"{plugin()},out={folder / 'counts'},mark={_address(program, f'{name}_mark'):#x}"]
    if not tools.machine:
        return [tools.emulator[0], "-E", "LD_BIND_NOW=1", *tools.emulator[1:], *counting, str(program)]
    quiet = ["-display", "none", "-monitor", "none"]
    talks = ["-serial", "none", "-semihosting-config", "enable=on,target=native"]
    if tools.machine == "riscv":
        talks = ["-serial", "stdio"]
    return [*tools.emulator, *quiet, *talks, *counting, "-kernel", str(program)]


def _address(program: Path, symbol: str) -> int:
    """Where a function starts; Arm marks Thumb code in the lowest bit."""
    with program.open("rb") as file:
        elf = ELFFile(file)
        table: Any = elf.get_section_by_name(".symtab")
        found = table.get_symbol_by_name(symbol)
        return int(found[0]["st_value"]) & (~1 if elf["e_machine"] == "EM_ARM" else ~0)


def numbers(text: str, last: str) -> dict[str, int]:
    """Lines of a name and a number. Raises EmulationError where `last` is not among them, or a status is."""
    found = {name: int(number) for name, number in re.findall(r"^(\w+) (\d+)$", text, re.MULTILINE)}
    if "status" in found:
        raise EmulationError(f"the code refuses to run on this machine: it returned {found['status']} (see its header)")
    if last not in found:
        raise EmulationError(f"the program did not finish: {text[-500:]!r}")
    return found


def _result(text: str, counts: list[int], layers: int, stack_words: int) -> ModelRun:
    """What the program said, and the counts between its marks: start, before the run, the layers, the end, the rest."""
    found = numbers(text, "wrong")
    wrong, stack = found["wrong"], found["stack"]
    if stack >= 4 * (stack_words - _SPARE_WORDS):
        raise NoRoom(
            f"the stack is deeper than the {4 * (stack_words - _SPARE_WORDS)} bytes that can be measured: "
            "move large local arrays to the arena, or raise the limits in fxquant/tools/emulate/run.py"
        )
    if not counts:
        return ModelRun(wrong, None, None, stack)
    is_marked = len(counts) > 3 + layers
    inside = counts[1 : 2 + layers] if is_marked else counts[1:2]
    return ModelRun(wrong, sum(inside), tuple(inside[1:]) if is_marked else None, stack)
