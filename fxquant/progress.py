"""Progress bars for long work: one way to show them, silent where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Iterable, Iterator, Sized
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, show: bool = True) -> Iterator[Item]:
    """Iterate over `items` with a bar on standard error, if that is a terminal and `show`."""
    if not show or not sys.stderr.isatty():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    total = len(items) if isinstance(items, Sized) else None
    yield from rich_track(items, what, total, console=Console(stderr=True), transient=True)
