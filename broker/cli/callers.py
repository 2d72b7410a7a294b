"""`broker callers`: the services that may ask for tokens, and their keys."""

from typing import Any

import click

from broker.cli import complete, words
from broker.cli.command import Group, as_json, confirm, say, yes
from broker.cli.desk import Desk
from broker.cli.tables import Cell, Column, show_json, show_table
from broker.cli.text import counted
from broker.model import CallerKind, Permission
from broker.times import moment, relative

COLUMNS = (
    Column("CALLER", breaks=True),
    Column("KIND", breaks=True),
    Column("ACCOUNTS", breaks=True),
    Column("PERMISSIONS", breaks=True),
    Column("KEYS"),
    Column("LAST ENDS"),
    Column("USED"),
)


@click.group("callers", cls=Group)
def callers() -> None:
    """The services that may ask for tokens, and their keys."""


@callers.command("add", example="broker callers add reporting --account 'kit-*' --account acme --expires 90d")
@click.argument("name", type=words.caller)
@click.option(
    "--account", "globs", multiple=True, required=True, metavar="GLOB", help="What it may touch; repeatable."
)
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    type=click.Choice([str(permission) for permission in Permission]),
    default=[str(Permission.TOKEN)],
    help="What it may do; repeatable. Default: token.",
)
@click.option("--expires", type=words.duration, help='When the key ends, as in "90d"; never without it.')
@as_json
@click.pass_obj
def add_caller(
    desk: Desk,
    *,
    name: str,
    globs: tuple[str, ...],
    permissions: tuple[str, ...],
    expires: int | None,
    as_json: bool,
) -> None:
    """Let the service NAME in and print its key.

    The key is never shown again; only a hash of it is kept.
    """
    body = {
        "name": name,
        "accounts": list(globs),
        "permissions": list(permissions),
        "expires_in": expires,
    }
    answer = desk.broker.ask("POST", "/callers", body=body)
    say(answer["key"], answer, as_json=as_json)


@callers.command("list", example="broker callers list")
@as_json
@click.pass_obj
def list_callers(desk: Desk, as_json: bool) -> None:
    """List the services, what they may do, and when each was last there."""
    answer = desk.broker.ask("GET", "/callers")
    if as_json:
        show_json(answer)
    elif answer["callers"]:
        now = desk.clock.now()
        show_table(COLUMNS, (_row(caller, now) for caller in answer["callers"]))
    else:
        click.echo("No callers yet. `broker callers add NAME --account GLOB` lets one in.")


@callers.command("rotate", example="broker callers rotate reporting")
@click.argument("name", type=words.caller, shell_complete=complete.callers)
@click.option("--now", is_flag=True, help="End the older of two keys at once, to make room.")
@as_json
@click.pass_obj
def rotate_caller(desk: Desk, name: str, now: bool, as_json: bool) -> None:
    """Print a new key for the service NAME.

    The old one works 24 hours longer. While two keys work, a third is made only with --now.
    """
    answer = desk.broker.ask("POST", f"/callers/{name}/rotate", body={"now": now})
    say(answer["key"], answer, as_json=as_json)


@callers.command("remove", example="broker callers remove reporting")
@click.argument("name", type=words.caller, shell_complete=complete.callers)
@yes
@as_json
@click.pass_obj
def remove_caller(desk: Desk, name: str, yes: bool, as_json: bool) -> None:
    """Shut the service NAME out, at once."""
    confirm(f"Remove {name}, whose keys stop working at once?", yes=yes)
    desk.broker.ask("DELETE", f"/callers/{name}")
    say(f"{name} is removed.", {"name": name}, as_json=as_json)


def _row(caller: dict[str, Any], now: float) -> tuple[object, ...]:
    keys = caller["keys"]
    return (
        caller["name"],
        Cell(caller["kind"], ["overridden by the configuration"] if caller["overridden"] else []),
        " ".join(caller["accounts"]),
        " ".join(caller["permissions"]),
        counted(len(keys), "key") if caller["kind"] == CallerKind.KEYS else None,
        _last_end(keys, now),
        relative(caller["last_used_at"], now),
    )


def _last_end(keys: list[dict[str, Any]], now: float) -> str:
    """When the last of the keys ends."""
    if not keys:
        return "-"
    if any(key["expires_at"] is None for key in keys):
        return "never"
    return relative(max((key["expires_at"] for key in keys), key=moment), now)
