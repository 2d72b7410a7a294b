"""`broker audit` and `broker events`: the record of who got which token, and what happened to accounts."""

import asyncio
import json
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import suppress
from functools import partial
from pathlib import Path
from typing import Any

import click

from broker.cli import arguments
from broker.cli.admin_socket import NoBroker
from broker.cli.command import Command, CommandContext, Group
from broker.cli.output import Cell, Failed, columns, counted, plain, show_json
from broker.config import ConfigError, load
from broker.times import relative

BLOCK = 64 * 1024
EVENT_COLUMNS = (*columns("ID", "WHEN", "EVENT"), *columns("ABOUT", breaks=True))


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
def verify(context: CommandContext, files: tuple[Path, ...], part: bool) -> None:
    """Follow the audit's chains and name the first bad line.

    Without FILES the broker's own; `-` is standard input, where lines of others may stand between.
    Finds lines that were changed, removed or moved, and an end that was cut off. Works with and without
    a running broker.
    """
    lines = GivenLines(files) if files else None
    if part and lines is None:
        raise click.UsageError("--part is about FILES; the broker's own are verified whole.")
    try:
        report = _verified(context, lines, part=part)
    except OSError as exc:
        raise Failed(f"{exc.filename} cannot be read: {exc.strerror}.") from None
    if lines is not None:
        report["problems"] = [lines.placed(problem) for problem in report["problems"]]
    if context.as_json:
        show_json(report)
    else:
        for note in report["notes"]:
            click.echo(f"Note: {plain(note)}.")
    if not report["lines"]:
        raise Failed("There is not one line of the audit here.")
    if report["problems"]:
        raise Failed(_first_problem(report))
    if not context.as_json:
        click.echo(
            f"The audit is whole: {counted(report['lines'], 'line')} of {counted(report['chains'], 'start')},"
            f" from {report['begins_at']} to {report['ends_at']}."
        )


class GivenLines:
    """The lines of several files, one after another, and whose is which."""

    def __init__(self, files: Sequence[Path]) -> None:
        self._files = files
        self._ends: list[int] = []
        """How many lines there are up to the end of each file."""

    async def blocks(self) -> AsyncIterator[bytes]:
        """Yield all of them; a file that lacks its last newline gets one. Raises OSError."""
        lines = 0
        for path in self._files:
            with click.open_file(str(path), "rb") as file:
                last = b"\n"
                for block in iter(partial(file.read, BLOCK), b""):
                    lines += block.count(b"\n")
                    last = block[-1:]
                    yield block
            if last != b"\n":
                lines += 1
                yield b"\n"
            self._ends.append(lines)

    def placed(self, problem: dict[str, Any]) -> dict[str, Any]:
        """Return the problem with its file, and its line counted from there."""
        number = problem["line"]
        if number is None:
            return problem
        before = 0
        for path, end in zip(self._files, self._ends, strict=True):
            if number <= end:
                return {**problem, "file": str(path) if path != Path("-") else "", "line": number - before}
            before = end
        return problem


def _verified(context: CommandContext, lines: GivenLines | None, *, part: bool) -> dict[str, Any]:
    """Return the report of the running broker; where none runs, of the audit opened by the command itself."""
    broker = context.broker
    try:
        if lines is None:
            return broker.ask("GET", "/audit/verify", patience=None)
        # Where nobody answers, standard input must still be there for the other way.
        broker.ask("GET", "/version")
        return broker.send("/audit/verify", lines.blocks, query={"part": int(part)})
    except NoBroker:
        pass
    from broker.app.offline import verify_offline  # noqa: PLC0415 - all of the server, which few commands need
    from broker.errors import StartRefused  # noqa: PLC0415 - the same
    from broker.observe import logs  # noqa: PLC0415 - the same

    try:
        with context.as_service() as environ:
            settings = load(context.config_path, environ=environ)
            logs.configure(settings.log)
            blocks = None if lines is None else lines.blocks()
            return asyncio.run(verify_offline(settings, blocks, part=part)).json()
    except ConfigError as exc:
        raise Failed(exc.problems[0]) from None
    except StartRefused as exc:
        raise Failed(f"The audit cannot be verified: {exc}.") from None


def _first_problem(report: dict[str, Any]) -> str:
    """Return the first bad line in a sentence, and how many more there are."""
    problem, *others = report["problems"]
    more = len(others) + report["more_problems"]
    place = " ".join(
        part for part in (problem["file"], problem["line"] and f"line {problem['line']}") if part
    )
    told = f"{place} {problem['what']}" if place else problem["what"]
    rest = f", and {counted(more, 'problem')} behind it" if more else ""
    return f"The audit was tampered with or damaged: {told}{rest}."


@click.command("events", cls=Command, example="broker events --follow")
@click.option("--follow", is_flag=True, help="Go on printing them as they happen, until Ctrl-C.")
@click.option("--after", type=click.IntRange(min=0), metavar="ID", help="Only those behind this one.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), help="At most so many; default 100. Not with --follow."
)
@click.option(
    "--account",
    type=arguments.account,
    shell_complete=arguments.complete_accounts,
    help="Only of this account.",
)
def events(
    context: CommandContext, *, follow: bool, after: int | None, limit: int | None, account: str | None
) -> None:
    """Print what happened, oldest first.

    With --follow and --json it is one object a line.
    """
    if follow and limit is not None:
        raise click.UsageError("--limit and --follow contradict each other: following has no end")
    query = {"after": after, "limit": None if follow else limit or 100, "account": account}
    if follow:
        # Ctrl-C is how following ends, so it is not a failure.
        with suppress(KeyboardInterrupt):
            show = _show_event_json if context.as_json else _show_event
            context.broker.follow("/events", query=query, show=show)
        return
    answer = context.broker.ask("GET", "/events", query=query)
    now = context.clock.now()
    rows = (
        (
            event["id"],
            relative(event["at"], now),
            Cell(event["event"], [event["reason"], _actor(event)]),
            event["account"] or event["provider"],
        )
        for event in answer["events"]
    )
    context.show_list(answer, EVENT_COLUMNS, rows, none="No events.")


def _actor(event: Mapping[str, Any]) -> str | None:
    return f"by {event['actor']}" if event.get("actor") else None


def _show_event(event: Mapping[str, Any]) -> None:
    if event["event"] == "gap":
        click.echo(f"Events up to {event['resumed_after']} are not kept any more.", err=True)
        return
    about = event["account"] or event["provider"] or "-"
    # Absolute here: a line that stays on the screen must stay true.
    words = (event["at"], event["event"], about, event["reason"], _actor(event))
    click.echo("  ".join(plain(word) for word in words if word is not None))


def _show_event_json(event: Mapping[str, Any]) -> None:
    click.echo(json.dumps(event))
