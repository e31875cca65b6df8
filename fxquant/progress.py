"""Progress bars for long work: one way to show them, silent where nobody looks."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterable, Iterator, Sized
from contextlib import contextmanager
from typing import TypeVar

Item = TypeVar("Item")


def track(items: Iterable[Item], what: str, show: bool = True) -> Iterator[Item]:
    """Iterate over `items` with a bar on standard error or in the notebook, if somebody looks and `show`."""
    if not show or not _is_watched():
        yield from items
        return
    from rich.console import Console
    from rich.progress import track as rich_track

    total = len(items) if isinstance(items, Sized) else None
    yield from rich_track(items, what, total, console=Console(stderr=True), transient=True)


@contextmanager
def working(what: str, show: bool = True) -> Iterator[Callable[[str], None]]:
    """A spinner where `track` has its bar; gives a function that changes its text.

    For work that cannot say how far it is.
    """
    if not show or not _is_watched():
        yield lambda text: None
        return
    from rich.console import Console

    with Console(stderr=True).status(what) as status:
        yield status.update


def _is_watched() -> bool:
    """Whether there is a terminal, or a notebook, whose kernel has no terminal but shows what rich gives it."""
    return sys.stderr.isatty() or "ipykernel" in sys.modules
