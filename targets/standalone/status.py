"""What `<name>_run` returns, and how it looks at its pointers before it computes: in C, and as LLVM IR.

A misaligned word access is a hard fault on small cores, and a null pointer is somebody's vector table there: what a
caller can get wrong is a number that it can print.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from enum import IntEnum

from fxquant.targets.standalone.network import ALIGN


class Status(IntEnum):
    """`<NAME>_<member>` in C; `meaning` says it in words."""

    OK = 0, "computed"
    BAD_ARENA = 1, f"the arena is NULL or not aligned to {ALIGN}"
    BAD_PORT = 2, "an input or output is NULL or not aligned to its type"
    BAD_CPU = 3, "this CPU lacks instructions that the code is made of"
    BAD_BYTE_ORDER = 4, "this machine is big-endian, and the constants are not"
    BAD_STATE = 5, f"the state is NULL or not aligned to {ALIGN}"
    BAD_LABEL = 6, "the label is none of the classes, which count from 0"

    meaning: str

    def __new__(cls, value: int, meaning: str) -> Status:
        """A number with its words."""
        member = int.__new__(cls, value)
        member._value_, member.meaning = value, meaning
        return member


# The ports in the order of `<name>_run`: their names, and bytes that their addresses are multiples of.
Alignments = Sequence[tuple[str, int]]


REGIONS = {"arena": Status.BAD_ARENA, "state": Status.BAD_STATE}
# Of networks that train.
LEARNING = (Status.BAD_STATE, Status.BAD_LABEL)


def tests_c(name: str, ports: Alignments, regions: Sequence[str]) -> Iterator[str]:
    """Statements that return the status of a bad pointer, to one of REGIONS or of these ports."""
    mine = name.upper()
    for region in regions:
        yield f"  if (!{region} || (uintptr_t){region} % {ALIGN}) return {mine}_{REGIONS[region].name};"
    for port, align in ports:
        off = f" || (uintptr_t){port} % {align}" if align > 1 else ""
        yield f"  if (!{port}{off}) return {mine}_{Status.BAD_PORT.name};"


def pointer_test_ir(symbol: str, status: Status, align: int) -> str:
    """`symbol`, as `returned_unless_zero` calls it: `status` for a pointer that is null or no multiple of `align`."""
    return f"""
define i32 @{symbol}(ptr %self, ptr %pointer, i32 %count, ptr %result) nounwind {{
  %null = icmp eq ptr %pointer, null
  %at = ptrtoint ptr %pointer to i32
  %rest = and i32 %at, {align - 1}
  %off = icmp ne i32 %rest, 0
  %bad = or i1 %null, %off
  %status = select i1 %bad, i32 {status.value}, i32 {Status.OK.value}
  ret i32 %status
}}
"""


def label_test_ir(symbol: str, classes: int) -> str:
    """`symbol`, as `returned_unless_zero` calls it: BAD_LABEL for a pointer to an s32 beyond 0 ... classes - 1."""
    return f"""
define i32 @{symbol}(ptr %self, ptr %pointer, i32 %count, ptr %result) nounwind {{
  %label = load i32, ptr %pointer, align 4
  %bad = icmp uge i32 %label, {classes}
  %status = select i1 %bad, i32 {Status.BAD_LABEL.value}, i32 {Status.OK.value}
  ret i32 %status
}}
"""


def cpu_test_ir(symbol: str, supported: str) -> str:
    """`symbol`, as `returned_unless_zero` calls it: BAD_CPU where `int supported(void)` gives 0."""
    return f"""
declare i32 @{supported}() nounwind
define i32 @{symbol}(ptr %self, ptr %pointer, i32 %count, ptr %result) nounwind {{
  %answer = call i32 @{supported}()
  %bad = icmp eq i32 %answer, 0
  %status = select i1 %bad, i32 {Status.BAD_CPU.value}, i32 {Status.OK.value}
  ret i32 %status
}}
"""
