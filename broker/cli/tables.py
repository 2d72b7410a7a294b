"""Prints tables for people, eighty columns wide where nobody knows better, and JSON for programs."""

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import click
from rich.console import Console
from rich.table import Table
from rich.text import Text

from broker.cli.text import plain

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


@dataclass(frozen=True, slots=True)
class Column:
    """A column's head, and whether its cells may be broken over lines; nothing is ever cut off."""

    head: str
    breaks: bool = False


@dataclass(frozen=True, slots=True)
class Cell:
    """A word of ours in its colour, and what explains it, each on a line below."""

    word: object
    notes: Sequence[object] = ()


@dataclass(frozen=True, slots=True)
class Lines:
    """Several values, one below the other."""

    values: Sequence[object]


def show_table(columns: Sequence[Column], rows: Iterable[Sequence[object]]) -> None:
    """A table; what does not fit is folded in the columns that may break."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), header_style="bold")
    for column in columns:
        table.add_column(column.head, no_wrap=not column.breaks, overflow="fold")
    for row in rows:
        table.add_row(*(_text(cell) for cell in row))
    _print(table)


def show_facts(facts: Iterable[tuple[str, object]]) -> None:
    """Names and values, one a line."""
    table = Table(box=None, pad_edge=False, padding=(0, 2, 0, 0), show_header=False)
    table.add_column(no_wrap=True, style="bold")
    table.add_column(overflow="fold")
    for name, value in facts:
        table.add_row(Text(name), _text(value))
    _print(table)


def show_json(value: Mapping[str, Any]) -> None:
    """Pure ASCII, so that nothing in it can play with the terminal."""
    click.echo(json.dumps(value, indent=2))


def _text(cell: object) -> Text:
    match cell:
        case Cell(word, notes):
            styled = Text(plain(word), style=STYLES.get(str(word), ""))
            return _below([styled, *(Text(plain(note), style="dim") for note in notes if note)])
        case Lines(values):
            return _below([Text(plain(value)) for value in values])
        case _:
            return Text(plain(cell))


def _below(lines: list[Text]) -> Text:
    """One below the other for people; for programs on one line, so that a row is a line."""
    return Text("\n" if _is_for_people() else ", ").join(lines)


def _is_for_people() -> bool:
    return sys.stdout.isatty()


def _print(table: Table) -> None:
    # In a pipe nothing is wrapped, whatever its length.
    Console(highlight=False, width=None if _is_for_people() else UNWRAPPED).print(table)
