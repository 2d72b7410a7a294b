"""How far long work has come: a bar on standard error, on a terminal only."""

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from rich.console import Console
from rich.progress import Progress


@contextmanager
def progress(what: str, total: int | None = None) -> Iterator[Callable[[int, int | None], None]]:
    """Call what this gives with how much more is done, and with the total where that becomes known later."""
    console = Console(stderr=True)
    with Progress(
        console=console,
        transient=True,
        disable=not sys.stderr.isatty(),
        # What goes into a file or a pipe must not end up beside the bar.
        redirect_stdout=sys.stdout.isatty(),
    ) as bar:
        task = bar.add_task(what, total=total)

        def advance(more: int, new_total: int | None = None) -> None:
            bar.update(task, advance=more, total=new_total)

        yield advance
