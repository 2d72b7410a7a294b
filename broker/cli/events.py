"""`broker events`: what happened, and what happens."""

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

import click

from broker.cli import complete, words
from broker.cli.command import Command, as_json
from broker.cli.desk import Desk
from broker.cli.tables import Cell, Column, show_json, show_table
from broker.cli.text import plain
from broker.times import relative

COLUMNS = (Column("ID"), Column("WHEN"), Column("EVENT"), Column("ABOUT", breaks=True))


@click.command("events", cls=Command, example="broker events --follow")
@click.option("--follow", is_flag=True, help="Go on printing them as they happen, until Ctrl-C.")
@click.option("--after", type=click.IntRange(min=0), metavar="ID", help="Only those behind this one.")
@click.option(
    "--limit", type=click.IntRange(1, 1000), default=100, show_default=True, help="At most so many."
)
@click.option("--account", type=words.account, shell_complete=complete.accounts, help="Only of this account.")
@as_json
@click.pass_obj
def events(
    desk: Desk, *, follow: bool, after: int | None, limit: int, account: str | None, as_json: bool
) -> None:
    """Print what happened, oldest first.

    With --follow and --json it is one object a line.
    """
    query = {"after": after, "limit": limit, "account": account}
    if follow:
        # Ctrl-C is how following ends, so it is not a failure.
        with suppress(KeyboardInterrupt):
            desk.broker.follow("/events", query=query, show=_show_json_line if as_json else _show_line)
        return
    answer = desk.broker.ask("GET", "/events", query=query)
    if as_json:
        show_json(answer)
    elif answer["events"]:
        now = desk.clock.now()
        show_table(COLUMNS, (_row(event, now) for event in answer["events"]))
    else:
        click.echo("No events.")


def _row(event: Mapping[str, Any], now: float) -> tuple[object, ...]:
    return (
        event["id"],
        relative(event["at"], now),
        Cell(event["event"], [event["reason"], _by(event)]),
        _about(event),
    )


def _about(event: Mapping[str, Any]) -> str:
    return plain(event["account"] or event["provider"])


def _by(event: Mapping[str, Any]) -> str | None:
    """Who did it, where somebody did."""
    actor = event.get("actor")
    return f"by {actor}" if actor else None


def _show_line(event: Mapping[str, Any]) -> None:
    if event["event"] == "gap":
        click.echo(f"Events up to {event['resumed_after']} are not kept any more.", err=True)
        return
    # Absolute here: a line that stays on the screen must stay true.
    words = (event["at"], event["event"], _about(event), event["reason"], _by(event))
    click.echo("  ".join(plain(word) for word in words if word is not None))


def _show_json_line(event: Mapping[str, Any]) -> None:
    click.echo(json.dumps(event))
