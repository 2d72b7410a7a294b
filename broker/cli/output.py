"""What commands print: safe text, tables, JSON, progress bars, and the sentence with which a command fails."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import click
from rich.console import Console
from rich.progress import Progress
from rich.table import Table
from rich.text import Text

UNWRAPPED = 1 << 16
STYLES: Mapping[str, str] = {
    "active": "green",
    "closed": "green",
    "ok": "green",
    "frozen": "cyan",
    "warning": "yellow",
    "uncertain": "yellow",
    "refresh_failing": "yellow",
    "needs_reauthorization": "red",
    "open": "red",
    "problem": "red",
}


class Failed(click.ClickException):
    """A command's failure: exit code 1 and one sentence on standard error, for people and without a secret."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, file=file, err=file is None)


def plain(value: object) -> str:
    """Return text that is safe on a terminal; None is a dash.

    What could move the cursor or hide something becomes a visible mark.
    """
    if value is None or value == "":
        return "-"
    return "".join(letter if letter.isprintable() else "\N{REPLACEMENT CHARACTER}" for letter in str(value))


def one_line(text: str) -> str:
    """Return the text on one line, safe on a terminal."""
    return plain(" ".join(text.split()))


def counted(number: int, thing: str) -> str:
    """Return `1 key`, `2 keys`."""
    return f"{number} {thing}" if number == 1 else f"{number} {thing}s"


@dataclass(frozen=True, slots=True)
class Column:
    """A column's head, and whether its cells may be broken over lines; nothing is ever cut off."""

    head: str
    breaks: bool = False


def columns(*heads: str, breaks: bool = False) -> tuple[Column, ...]:
    return tuple(Column(head, breaks) for head in heads)


@dataclass(frozen=True, slots=True)
class Cell:
    """A word of ours in its colour, and notes that explain it, each on a line below."""

    word: object
    notes: Sequence[object] = ()


@dataclass(frozen=True, slots=True)
class Lines:
    """Several values, one below the other."""

    values: Sequence[object]


def show_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; a cell that is too wide is folded in the columns that may break."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.head, no_wrap=not column.breaks, overflow="fold")
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    _print(table)


def show_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one a line."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(name), _text(value))
    _print(table)


def show_json(value: Mapping[str, Any]) -> None:
    """Print JSON in pure ASCII, so that nothing in it can play with the terminal."""
    click.echo(json.dumps(value, indent=2))


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int, int | None], None]]:
    """Show a bar on standard error, on a terminal only.

    Call what this yields with how much more is done, and with the total where that becomes known later.
    """
    with Progress(
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
        # What goes into a file or a pipe must not end up beside the bar.
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        task = bar.add_task(what, total=total)

        def advance(more: int, new_total: int | None = None) -> None:
            bar.update(task, advance=more, total=new_total)

        yield advance


def _text(cell: object) -> Text:
    match cell:
        case Cell(word, notes):
            styled = Text(plain(word), style=STYLES.get(str(word), ""))
            lines = [styled, *(Text(plain(note), style="dim") for note in notes if note)]
        case Lines(values):
            lines = [Text(plain(value)) for value in values]
        case _:
            lines = [Text(plain(cell))]
    # Below each other for people; for programs on one line, so that a row is a line.
    return Text("\n" if sys.stdout.isatty() else ", ").join(lines)


def _print(table: Table) -> None:
    # In a pipe nothing is wrapped, whatever its length; COLUMNS counts on a terminal only.
    Console(highlight=False, width=None if sys.stdout.isatty() else UNWRAPPED).print(table)
