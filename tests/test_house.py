"""The rules of the house: who may import whom, sizes of files and functions, and clean reports of ruff and mypy."""

from __future__ import annotations

import ast
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parent.parent
ROOMS = ("fxquant", "passes", "targets", "tools")
LONGEST_FILE, LONGEST_FUNCTION = 400, 60

# Other quantization toolkits break their users at every second release; this one owns its observers. The benchmark
# measures them, each in a file of its own.
FOREIGN = ("torch.ao", "torchao", "torch.quantization")


def files(*folders: str) -> list[Path]:
    """Python files of these folders; the rooms' links inside of fxquant/ are not followed."""
    found = [p for folder in folders for p in sorted((ROOT / folder).rglob("*.py"))]
    links = [ROOT / "fxquant" / room for room in ROOMS[1:]]
    return [p for p in found if not any(link in p.parents for link in links)]


def imports(path: Path) -> Iterator[str]:
    """Every module that a file imports, wherever in the file."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"{path}:{node.lineno}: a relative import"
            yield from (f"{node.module}.{alias.name}" for alias in node.names)


def run(*command: str) -> subprocess.CompletedProcess[str]:
    """A tool of this environment, run in the clone."""
    return subprocess.run([sys.executable, *command], cwd=ROOT, capture_output=True, text=True, check=False)


def test_only_the_modules_named_for_it_import_tvm() -> None:
    found = {p.relative_to(ROOT).as_posix() for p in files(*ROOMS) if any(m.split(".")[0] == "tvm" for m in imports(p))}
    assert found and all(name.startswith("targets/tvm_") for name in found)


def test_nothing_imports_another_quantization_toolkit() -> None:
    everything = files(*ROOMS, "tests", "examples", "benchmarks", "docs")
    peers = set((ROOT / "tools" / "bench").glob("peer_*.py"))
    found = {
        f"{path.relative_to(ROOT)}: {name}"
        for path in everything
        if path not in peers
        for name in imports(path)
        if any(name == f or name.startswith(f"{f}.") for f in FOREIGN)
    }
    assert not found


def test_the_compiled_side_needs_neither_torch_nor_tvm() -> None:
    """Loading and running an artifact imports numpy and the standard library."""
    allowed = {"fxquant", "numpy", *sys.stdlib_module_names}
    for path in files("fxquant/runtime"):
        assert {name.split(".")[0] for name in imports(path)} <= allowed, path


@pytest.mark.parametrize(
    "statement",
    [
        "import fxquant",
        "import fxquant.runtime.model",
        "from fxquant import load",
        "import fxquant.errors, fxquant.scheme, fxquant.target, fxquant.targets",
        "from fxquant.cli import main",
    ],
)
def test_what_is_imported_early_is_light(statement: str) -> None:
    code = f"import sys\n{statement}\nprint(*(m for m in ('torch', 'tvm', 'scipy', 'sklearn') if m in sys.modules))"
    result = run("-c", code)
    assert (result.returncode, result.stdout.strip()) == (0, ""), result.stderr


def test_every_public_name_is_there() -> None:
    import fxquant

    assert all(getattr(fxquant, name) is not None for name in fxquant.__all__)
    with pytest.raises(AttributeError, match="module 'fxquant' has no attribute 'quantise'"):
        _ = fxquant.quantise


def test_files_and_functions_are_short() -> None:
    long = []
    for path in files(*ROOMS, "tests", "benchmarks", "examples"):
        text = path.read_text(encoding="utf-8")
        lines = len(text.splitlines())
        if lines > LONGEST_FILE:
            long.append(f"{path.relative_to(ROOT)}: {lines} lines")
        for node in ast.walk(ast.parse(text)):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                length = (node.end_lineno or node.lineno) - node.lineno + 1
                if length > LONGEST_FUNCTION:
                    long.append(f"{path.relative_to(ROOT)}:{node.lineno}: {node.name} has {length} lines")
    assert not long, "\n".join(long)


def test_every_module_says_what_it_is() -> None:
    for path in files(*ROOMS, "tests", "benchmarks", "examples"):
        text = path.read_text(encoding="utf-8")
        assert not text.strip() or ast.get_docstring(ast.parse(text)), path


def test_every_pass_shows_before_and_after() -> None:
    for path in files("passes"):
        if path.name != "__init__.py":
            assert "=>" in (ast.get_docstring(ast.parse(path.read_text(encoding="utf-8"))) or ""), path


def test_every_package_is_shipped() -> None:
    import tomllib

    listed = set(tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"])
    folders = {p.parent.relative_to(ROOT) for p in files(*ROOMS) if p.name == "__init__.py"}
    there = {".".join(f.parts if f.parts[0] == "fxquant" else ("fxquant", *f.parts)) for f in folders}
    assert listed == there


def test_layers() -> None:
    """cli, api -> tools -> passes | targets -> core: [tool.importlinter] of pyproject.toml."""
    result = run("-c", "import sys; from importlinter.cli import lint_imports; sys.exit(lint_imports(no_cache=True))")
    assert result.returncode == 0, result.stdout + result.stderr


def test_a_graph_is_followed_through_few_files() -> None:
    """As `python benchmarks/following.py` counts it: the house gets no larger, its rooms are kept together."""
    from benchmarks.following import counts, example, followed

    files, returns = counts(followed(example(), "x86-avx2"))
    assert (files, returns) <= (28, 28) and returns <= 28


def test_ruff() -> None:
    result = run("-m", "ruff", "check", ".")
    assert result.returncode == 0, result.stdout + result.stderr


def test_mypy() -> None:
    result = run("-m", "mypy", "fxquant", "tests")
    assert result.returncode == 0, result.stdout + result.stderr
