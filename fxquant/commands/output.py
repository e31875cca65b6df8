"""How commands speak: results on standard output, as a table or as JSON; progress on standard error."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Annotated, Any

import typer

from fxquant.errors import CommandError

Json = Annotated[bool, typer.Option("--json", help="Print one JSON object instead of a table.")]


def emit(data: Any) -> None:
    """Print plain data as JSON, which has no infinity and no NaN: those are null."""
    import json

    print(json.dumps(_finite(data), indent=2, allow_nan=False))


def _finite(data: Any) -> Any:
    if isinstance(data, dict):
        return {key: _finite(value) for key, value in data.items()}
    if isinstance(data, (list, tuple)):
        return [_finite(value) for value in data]
    return None if isinstance(data, float) and not math.isfinite(data) else data


def show(*renderables: Any) -> None:
    """Print tables and the like, as wide as the terminal."""
    from rich.console import Console

    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=140)
    console.print(*renderables)


def table(title: str, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> Any:
    """A table of plain text."""
    from rich.markup import escape

    from fxquant.tools.shown import titled

    found = titled(title)
    for position, column in enumerate(columns):
        found.add_column(column, no_wrap=position == 0, overflow="fold")
    for row in rows:
        found.add_row(*map(escape, row))
    return found


def plain(value: Any) -> str:
    """A value as a table shows it."""
    if isinstance(value, float):
        return f"{value:.6g}"
    return ", ".join(map(str, value)) if isinstance(value, list) else str(value)


def written(path: Path) -> Path:
    """`path`, once its folder is there; CommandError if it is not."""
    if not path.resolve().parent.is_dir():
        raise CommandError(f"there is no folder {path.resolve().parent} to write {path.name} into")
    return path
