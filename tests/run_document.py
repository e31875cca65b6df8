"""Runs the Python blocks of Markdown files in order, one namespace per file, and compares what they print.

    python run_document.py README.md docs/recipes.md

Every block that is fenced as `python` runs; one that is fenced as `py` does not. A fence `text output` holds what the
block before it printed. Ends with status 1, and a diff or a traceback, if a file's blocks print something else or fail.
"""

from __future__ import annotations

import io
import sys
import traceback
from collections.abc import Iterator
from contextlib import redirect_stdout
from dataclasses import dataclass
from difflib import unified_diff
from pathlib import Path


@dataclass(frozen=True)
class Block:
    """A fenced block: the words after the fence, the line its text starts on, and the text."""

    kind: str
    line: int
    text: str


def blocks(path: Path) -> Iterator[Block]:
    """Fenced blocks of a file in order; every fence stands at the start of a line."""
    kind, start, lines = "", 0, list[str]()
    for number, line in enumerate(path.read_text().splitlines(), 1):
        if not line.startswith("```"):
            lines.append(line)
        elif start:
            yield Block(kind, start, "".join(f"{text}\n" for text in lines))
            kind, start = "", 0
        else:
            kind, start = line.removeprefix("```").strip(), number + 1
            lines.clear()


def fault(path: Path) -> str:
    """What is wrong with a file, empty if nothing is: a block's traceback, or the difference in what was printed."""
    try:
        return _difference(path)
    except Exception:
        return traceback.format_exc()


def _difference(path: Path) -> str:
    namespace: dict[str, object] = {"__name__": "__main__"}
    printed = ""
    for block in blocks(path):
        if block.kind == "python":
            # Empty lines above, so that a traceback names the line in the document.
            code = compile("\n" * (block.line - 1) + block.text, str(path), "exec", dont_inherit=True)
            with redirect_stdout(io.StringIO()) as captured:
                exec(code, namespace)
            printed = captured.getvalue()
        elif block.kind == "text output" and block.text != printed:
            difference = unified_diff(block.text.splitlines(), printed.splitlines(), "document", "printed", lineterm="")
            return f"{path}, line {block.line}:\n" + "\n".join(difference)
    return ""


if __name__ == "__main__":
    faults = [found for name in sys.argv[1:] if (found := fault(Path(name)))]
    print(*faults, sep="\n\n")
    sys.exit(1 if faults else 0)
