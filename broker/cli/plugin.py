"""`broker plugin`: clients that sign in to us, as Kit does for its plugins."""

from typing import Any

import click

from broker.cli import words
from broker.cli.admin_socket import Object
from broker.cli.command import Group, as_json, confirm, say, yes
from broker.cli.desk import Desk
from broker.cli.failed import Failed, NoBroker
from broker.cli.tables import Cell, Column, show_json, show_table
from broker.times import relative

PAGE = 1000
COLUMNS = (
    Column("GRANT"),
    Column("CLIENT", breaks=True),
    Column("SUBJECT", breaks=True),
    Column("ACCOUNT", breaks=True),
    Column("USED"),
    Column("ENDS"),
)


@click.group("plugin", cls=Group, former={"revoke": "remove"})
def plugin() -> None:
    """Clients that sign in to us, as Kit does for its plugins."""


@plugin.command("connect-code", example="broker plugin connect-code --subject user-42")
@click.option("--subject", required=True, help="Who the person is to you.")
@as_json
@click.pass_obj
def connect_code(desk: Desk, subject: str, as_json: bool) -> None:
    """Print a code with which a person says who they are.

    It is good once, for ten minutes; give it to that person only. Where [login] is configured, people sign in
    there and need none.
    """
    code = _ask(desk, "POST", "/plugin/connect-codes", body={"subject": subject})
    say(code["connect_code"], code, as_json=as_json)


@plugin.command("grants", example="broker plugin grants --subject user-42")
@click.option("--subject", help="Only of this person.")
@as_json
@click.pass_obj
def grants(desk: Desk, subject: str | None, as_json: bool) -> None:
    """List what people have allowed clients."""
    found = _all(desk, subject)
    if as_json:
        show_json({"grants": found, "next_cursor": None})
    elif found:
        now = desk.clock.now()
        show_table(COLUMNS, (_row(grant, now) for grant in found))
    else:
        click.echo("No grants.")


@plugin.command("remove", example="broker plugin remove 0123456789abcdef")
@click.argument("grant", type=words.grant)
@yes
@as_json
@click.pass_obj
def revoke(desk: Desk, grant: str, yes: bool, as_json: bool) -> None:
    """End GRANT, at once.

    The client is not told; its next call here is refused. Uninstall at Kit is the ordinary way.
    """
    confirm(f"End {grant}, whose tokens stop working at once?", yes=yes)
    _ask(desk, "DELETE", f"/plugin/grants/{grant}")
    say(f"{grant} is ended.", {"grant": grant}, as_json=as_json)


def _all(desk: Desk, subject: str | None) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    cursor = None
    while True:
        query = {"subject": subject, "cursor": cursor, "limit": PAGE}
        answer = _ask(desk, "GET", "/plugin/grants", query=query)
        found += answer["grants"]
        cursor = answer["next_cursor"]
        if cursor is None:
            return found


def _ask(desk: Desk, method: str, target: str, **more: Any) -> Object:
    """As the broker answers; raises Failed, with what to do where there is no such server."""
    try:
        return desk.broker.ask(method, target, **more)
    except NoBroker:
        raise
    except Failed as exc:
        if exc.message == "No such route":
            raise Failed(
                "The server for plugins is off; [plugin] in the configuration turns it on."
            ) from None
        raise


def _row(grant: dict[str, Any], now: float) -> tuple[object, ...]:
    return (
        grant["grant"],
        grant["client"],
        Cell(grant["subject"], [grant["scope"]]),
        grant["account"],
        relative(grant["last_used_at"], now),
        relative(grant["expires_at"], now),
    )
