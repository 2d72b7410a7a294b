"""`broker audit`: is the record of who got what as the broker wrote it?"""

import asyncio
from collections.abc import AsyncIterator, Iterator, Sequence
from pathlib import Path
from typing import IO, Any

import click

from broker.cli.command import Group, as_json
from broker.cli.desk import Desk
from broker.cli.failed import Failed, NoBroker
from broker.cli.tables import show_json
from broker.cli.text import counted, plain
from broker.config import ConfigError, load

BLOCK = 64 * 1024


@click.group("audit", cls=Group)
def audit() -> None:
    """Look into the record of who got which token."""


@audit.command(
    "verify",
    example="broker audit verify\n"
    "journalctl -u token-broker TOKEN_BROKER_AUDIT=1 -o cat | broker audit verify -",
)
@click.argument("files", nargs=-1, type=click.Path(path_type=Path, dir_okay=False, allow_dash=True))
@click.option("--part", is_flag=True, help="FILES are an excerpt; expect neither beginning nor end.")
@as_json
@click.pass_obj
def verify(desk: Desk, files: tuple[Path, ...], part: bool, as_json: bool) -> None:
    """Follow the audit's chains and name the first bad line.

    Without FILES the broker's own; `-` is standard input, where lines of others may stand between.
    Finds lines that were changed, removed or moved, and an end that was cut off. Works with and without
    a running broker.
    """
    lines = GivenLines(files) if files else None
    if part and lines is None:
        raise click.UsageError("--part is about FILES; the broker's own are verified whole.")
    try:
        report = _ask(desk, lines, part=part)
    except OSError as exc:
        raise Failed(f"{exc.filename} cannot be read: {exc.strerror}.") from None
    if lines is not None:
        report["problems"] = [lines.placed(problem) for problem in report["problems"]]
    if as_json:
        show_json(report)
    _tell(report, quiet=as_json)


class GivenLines:
    """The lines of several files, one after another, and whose is which."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._ends: list[int] = []
        """How many lines there are up to the end of each file."""

    async def blocks(self) -> AsyncIterator[bytes]:
        """All of them; a file that lacks its last newline gets one. Raises OSError."""
        lines = 0
        for path in self._files:
            with click.open_file(str(path), "rb") as file:
                last = b"\n"
                for block in _blocks_of(file):
                    lines += block.count(b"\n")
                    last = block[-1:]
                    yield block
            if last != b"\n":
                lines += 1
                yield b"\n"
            self._ends.append(lines)

    def placed(self, problem: dict[str, Any]) -> dict[str, Any]:
        """The problem with its file, and its line counted from there."""
        number = problem["line"]
        if number is None:
            return problem
        before = 0
        for path, end in zip(self._files, self._ends, strict=True):
            if number <= end:
                return {**problem, "file": str(path) if path != Path("-") else "", "line": number - before}
            before = end
        return problem


def _ask(desk: Desk, lines: GivenLines | None, *, part: bool) -> dict[str, Any]:
    broker = desk.broker
    try:
        if lines is None:
            return broker.ask("GET", "/audit/verify", patience=None)
        # Where nobody answers, standard input must still be there for the other way.
        broker.ask("GET", "/version")
        return broker.send("/audit/verify", lines.blocks, query={"part": int(part)})
    except NoBroker:
        return _ask_nobody(desk, lines, part=part)


def _ask_nobody(desk: Desk, lines: GivenLines | None, *, part: bool) -> dict[str, Any]:
    from broker.app import verify_offline  # noqa: PLC0415 - all of the server, which few commands need
    from broker.errors import StartRefused  # noqa: PLC0415 - the same
    from broker.observe import logs  # noqa: PLC0415 - the same

    try:
        with desk.as_service() as environ:
            settings = load(desk.config_path, environ=environ)
            logs.configure(settings.log)
            blocks = None if lines is None else lines.blocks()
            return asyncio.run(verify_offline(settings, blocks, part=part)).json()
    except ConfigError as exc:
        raise Failed(exc.problems[0]) from None
    except StartRefused as exc:
        raise Failed(f"The audit cannot be verified: {exc}.") from None


def _tell(report: dict[str, Any], *, quiet: bool) -> None:
    if not quiet:
        for note in report["notes"]:
            click.echo(f"Note: {plain(note)}.")
    if not report["lines"]:
        raise Failed("There is not one line of the audit here.")
    if report["problems"]:
        raise Failed(_first(report))
    if not quiet:
        click.echo(
            f"The audit is whole: {counted(report['lines'], 'line')} of {counted(report['chains'], 'start')},"
            f" from {report['begins_at']} to {report['ends_at']}."
        )


def _first(report: dict[str, Any]) -> str:
    """The first bad line in a sentence, and how many more there are."""
    problem, *others = report["problems"]
    more = len(others) + report["more_problems"]
    place = " ".join(
        part for part in (problem["file"], problem["line"] and f"line {problem['line']}") if part
    )
    told = f"{place} {problem['what']}" if place else problem["what"]
    rest = f", and {counted(more, 'problem')} behind it" if more else ""
    return f"The audit was tampered with or damaged: {told}{rest}."


def _blocks_of(file: IO[bytes]) -> Iterator[bytes]:
    while block := file.read(BLOCK):
        yield block
