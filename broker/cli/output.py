"""The output of commands: safe text, tables, JSON, progress bars, and failures."""

import json
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import IO, Any

import click

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
FOLDED, WHOLE = True, False
"""The cells of a column may be broken over lines, or not; nothing is ever cut off."""
SHOWN = 10
"""The most names that a sentence lists."""


class Failed(click.ClickException):
    """A command failed: exit code 1 and one sentence on standard error, without a secret."""

    exit_code = 1

    def __init__(self, message: str) -> None:
        super().__init__(one_line(message))

    def show(self, file: IO[Any] | None = None) -> None:
        click.echo(self.message, file=file, err=file is None)


def plain(value: object) -> str:
    """Return text that is safe on a terminal: control characters become visible, None and "" a dash."""
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
class Cell:
    """A word in the colour of its meaning, and notes that explain it, each on a line below."""

    word: object
    notes: Sequence[object] = ()


def show_table(columns: Mapping[str, bool], rows: Iterable[Sequence[object]]) -> None:
    """Print a table; `columns` maps each head to FOLDED or WHOLE."""
    shown = [{"header": head, "no_wrap": not folded} for head, folded in columns.items()]
    _print(shown, rows, header_style="bold")


def show_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Print names and values, one pair on a line."""
    _print([{"no_wrap": True, "style": "bold"}, {}], facts, show_header=False)


def show_json(value: Mapping[str, Any]) -> None:
    """Print JSON in pure ASCII, so that it holds no control sequences for a terminal."""
    click.echo(json.dumps(value, indent=2))


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int, int | None], None]]:
    """Show a progress bar on standard error, if that is a terminal.

    Yields a function that takes the number of further steps, and the total if it has become known.
    """
    # As below, and no command needs both.
    from rich.console import Console  # noqa: PLC0415
    from rich.progress import Progress  # noqa: PLC0415

    with Progress(
        console=Console(stderr=True),
        transient=True,
        disable=not sys.stderr.isatty(),
        # Output into a file or a pipe must not be moved next to the bar.
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        task = bar.add_task(what, total=total)
        yield lambda more, new_total: bar.update(task, advance=more, total=new_total)


def _print(columns: Iterable[Mapping[str, Any]], rows: Iterable[Sequence[object]], **options: Any) -> None:
    # Slow to import, and a script that asks for a token needs none of it.
    from rich.console import Console  # noqa: PLC0415
    from rich.table import Table  # noqa: PLC0415
    from rich.text import Text  # noqa: PLC0415

    def text(cell: object) -> Text:
        match cell:
            case Cell(word, notes):
                styled = Text(plain(word), style=STYLES.get(str(word), ""))
                lines = [styled, *(Text(plain(note), style="dim") for note in notes if note)]
            case list():
                lines = [Text(plain(value)) for value in cell]
            case _:
                lines = [Text(plain(cell))]
        # In a pipe all of it is on one line, so that a row is a line.
        return Text("\n" if sys.stdout.isatty() else ", ").join(lines)

    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), **options)
    for column in columns:
        table.add_column(overflow="fold", **column)
    for row in rows:
        table.add_row(*map(text, row))
    # In a pipe nothing is wrapped, whatever its length; COLUMNS counts on a terminal only.
    Console(highlight=False, width=None if sys.stdout.isatty() else UNWRAPPED).print(table)
