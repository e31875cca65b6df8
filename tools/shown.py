"""How results show themselves: the tables of the command line, in print(), in a notebook, and on a narrow terminal."""

from __future__ import annotations

import html
import io
import shutil
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from rich.console import Console, ConsoleOptions, RenderableType
    from rich.table import Table

# Where nothing tells how wide it may be: a notebook, a pipe.
USUAL_WIDTH = 140
# No column whose text is folded becomes narrower than this.
LEAST_FOLDED = 14
# What rich puts around a column's cells.
BETWEEN = 3


class Shown:
    """A result that is shown as `tables`: by print(), in a notebook's cell, and by rich."""

    def tables(self) -> Sequence[RenderableType]:
        """What is to be seen, in order."""
        raise NotImplementedError

    def text(self, width: int = USUAL_WIDTH) -> str:
        """The tables as plain text of so many columns."""
        from rich.console import Console

        console = Console(file=io.StringIO(), width=width, color_system=None)
        console.print(*self.tables())
        assert isinstance(console.file, io.StringIO)
        return "\n".join(line.rstrip() for line in console.file.getvalue().splitlines()) + "\n"

    def __str__(self) -> str:
        """The tables, as wide as the terminal."""
        return self.text(shutil.get_terminal_size((USUAL_WIDTH, 0)).columns)

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[RenderableType]:
        yield from self.tables()

    def _repr_html_(self) -> str:
        return f"<pre>{html.escape(self.text())}</pre>"


def titled(title: str) -> Table:
    """A table without columns yet, below a title of plain text."""
    from rich.box import SIMPLE_HEAD
    from rich.markup import escape
    from rich.table import Table

    return Table(title=escape(title), box=SIMPLE_HEAD, title_justify="left")


def facts(title: str, rows: Iterable[tuple[str, str]]) -> Table:
    """Names and what there is to say of them, as plain text, in two columns without heads."""
    from rich.markup import escape

    table = titled(title)
    table.show_header = False
    for row in rows:
        table.add_row(*map(escape, row))
    return table


@dataclass(frozen=True)
class Column:
    """A column of a Fitted table; of those with a `rank` the highest is left out first where the table is too wide."""

    title: str
    rank: int = 0
    justify: Literal["left", "right"] = "left"
    folds: bool = False


def numbers(*titles: str, rank: int = 0) -> tuple[Column, ...]:
    """Columns of numbers."""
    return tuple(Column(title, rank, "right") for title in titles)


@dataclass
class Fitted:
    """A table that leaves columns out, and says which, rather than squeeze them until nobody can read them."""

    title: str
    columns: Sequence[Column]
    rows: list[tuple[Sequence[str], str | None]] = field(default_factory=list)
    style: str | None = None

    def add(self, *cells: str, style: str | None = None) -> None:
        """A row of plain text."""
        self.rows.append((cells, style))

    def __rich_console__(self, console: Console, options: ConsoleOptions) -> Iterator[Any]:
        from rich.box import SIMPLE_HEAD
        from rich.markup import escape
        from rich.table import Table
        from rich.text import Text

        kept = self._fitting(options.max_width)
        is_narrow = self._width(kept) > options.max_width
        table = Table(box=SIMPLE_HEAD)
        for index in kept:
            column = self.columns[index]
            # What has to shrink all the same is folded: text that is cut off tells nothing.
            rigid = not column.folds and not is_narrow
            table.add_column(column.title, justify=column.justify, overflow="fold", no_wrap=rigid)
        for cells, style in self.rows:
            table.add_row(*(escape(cells[index]) for index in kept), style=style)
        yield Text(self.title, style=self.style or "italic")
        yield table
        left_out = [column.title for index, column in enumerate(self.columns) if index not in kept]
        if left_out:
            yield Text(f"(left out at this width: {', '.join(left_out)})", style="dim")

    def _fitting(self, width: int) -> list[int]:
        kept = list(range(len(self.columns)))
        while self._width(kept) > width:
            ranked = [index for index in kept if self.columns[index].rank]
            if not ranked:
                break
            kept.remove(max(ranked, key=lambda index: (self.columns[index].rank, index)))
        return kept

    def _width(self, kept: Sequence[int]) -> int:
        return sum(self._least(index) + BETWEEN for index in kept) + 1

    def _least(self, index: int) -> int:
        column = self.columns[index]
        most = max([len(column.title), *(len(cells[index]) for cells, _ in self.rows)])
        return max(len(column.title), min(most, LEAST_FOLDED)) if column.folds else most
