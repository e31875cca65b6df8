"""The documentation is true: its Python runs and prints what it says, its links, paths and commands exist."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import typer.main

from fxquant.cli import app
from tests.run_document import blocks

ROOT = Path(__file__).resolve().parents[1]
PAGES = [*sorted(ROOT.glob("*.md")), *sorted((ROOT / "docs").glob("*.md"))]
WITH_PYTHON = [page for page in PAGES if any(block.kind == "python" for block in blocks(page))]

RUNNER = ROOT / "tests" / "run_document.py"
LINK = re.compile(r"\[[^\]]*\]\(([^)\s]+)\)")


def run_python(*arguments: str | Path, folder: Path) -> subprocess.CompletedProcess[str]:
    # A process of its own: pages register operators and targets.
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "PYTHONWARNINGS": "ignore"}
    command = [sys.executable, *map(str, arguments)]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=300)


def test_python_blocks_run_and_print_what_the_pages_say(tmp_path: Path) -> None:
    """All pages in one process: importing torch and TVM takes longer than most of them."""
    assert len(WITH_PYTHON) > 5
    done = run_python(RUNNER, *WITH_PYTHON, folder=tmp_path)
    assert done.returncode == 0, done.stdout + done.stderr


def test_a_page_that_lies_is_caught(tmp_path: Path) -> None:
    good, wrong, broken = (tmp_path / f"{name}.md" for name in ("good", "wrong", "broken"))
    good.write_text("```python\nx = 1\n```\n\n```python\nprint(x)\n```\n\n```text output\n1\n```\n")
    wrong.write_text("```python\nprint(1 + 1)\n```\n\n```text output\n3\n```\n")
    broken.write_text("```py\nnot run\n```\n\n```python\nx\n```\n")
    assert run_python(RUNNER, good, folder=tmp_path).returncode == 0
    done = run_python(RUNNER, wrong, broken, folder=tmp_path)
    assert done.returncode == 1
    assert "wrong.md, line 6" in done.stdout and "-3\n+2" in done.stdout
    assert 'broken.md", line 6' in done.stdout and "name 'x' is not defined" in done.stdout


def links(page: Path) -> list[str]:
    """Link targets outside of code, web addresses left out."""
    prose = re.sub(r"^```.*?^```|`[^`\n]+`", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    return [link for link in LINK.findall(prose) if "://" not in link]


def anchors(page: Path) -> set[str]:
    headings = re.findall(r"^#+ (.+)$", page.read_text(), re.MULTILINE)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_links_resolve(page: Path) -> None:
    for link in links(page):
        path, _, anchor = link.partition("#")
        target = page.parent / path if path else page
        assert target.exists(), f"{page.name} links to {link}"
        assert not anchor or anchor in anchors(target), f"{page.name} links to {link}"


def test_every_page_can_be_reached_from_the_readme() -> None:
    seen, waiting = set[Path](), [ROOT / "README.md"]
    while waiting:
        page = waiting.pop()
        seen.add(page)
        linked = [(page.parent / link.partition("#")[0]).resolve() for link in links(page)]
        waiting += [target for target in linked if target.suffix == ".md" and target not in seen]
    assert set(PAGES) - {ROOT / "CHANGELOG.md"} <= seen


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.name))
def test_commands_exist(page: Path) -> None:
    """Every `fxquant ...` line of a console block names a command and options that it has."""
    commands: dict[str, Any] = typer.main.get_command(app).commands  # type: ignore[attr-defined]
    lines = [line for block in blocks(page) if block.kind in ("console", "bash") for line in block.text.splitlines()]
    for line in lines:
        if not line.startswith("fxquant "):
            continue
        _, name, *words = line.split()
        assert name in commands, line
        known = {text for parameter in commands[name].params for text in parameter.opts}
        assert {word.partition("=")[0] for word in words if word.startswith("-")} <= known, line


def test_the_house_is_as_the_readme_draws_it() -> None:
    (tree,) = [block.text for block in blocks(ROOT / "README.md") if block.kind == "tree"]
    folder = ""
    for line in tree.splitlines():
        name = line.split()[0]
        if not line.startswith(" "):
            folder = name
        path = folder if name == folder else folder + name
        assert (ROOT / path).exists(), path
    drawn = {line.split()[0].rstrip("/") for line in tree.splitlines() if not line.startswith(" ")}
    folders = {found.name for found in ROOT.iterdir() if found.is_dir() and any(found.glob("[!._]*"))}
    passing = {name for name in folders if name.startswith(".") or name.endswith(".egg-info")} | {"build", "dist"}
    assert folders - passing == drawn


def test_the_operators_page_is_what_the_code_says() -> None:
    done = run_python(ROOT / "docs" / "operators.py", "--check", folder=ROOT)
    assert done.returncode == 0, done.stdout + done.stderr


def test_ci_runs_the_test_command_of_the_readme() -> None:
    commands = [block.text for block in blocks(ROOT / "README.md") if block.kind == "bash"]
    assert [len(text.splitlines()) for text in commands] == [1, 1]
    pattern = re.search(r"grep '([^']+)' README.md", (ROOT / ".ci" / "run").read_text())
    assert pattern is not None
    assert re.match(pattern[1], commands[1]) and not re.match(pattern[1], commands[0])
