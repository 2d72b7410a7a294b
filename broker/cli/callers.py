"""`broker callers` and `broker plugin`: the services that may ask for tokens, and the clients that sign in to us."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

import click

from broker.cli import arguments
from broker.cli.arguments import caller_argument
from broker.cli.command import CommandContext, Group, confirm, yes
from broker.cli.output import Cell, Failed, columns, counted
from broker.model import CallerKind, Permission
from broker.times import moment, relative

CALLER_COLUMNS = (
    *columns("CALLER", "KIND", "ACCOUNTS", "PERMISSIONS", breaks=True),
    *columns("KEYS", "LAST ENDS", "USED"),
)
GRANT_COLUMNS = (
    *columns("GRANT"),
    *columns("CLIENT", "SUBJECT", "ACCOUNT", breaks=True),
    *columns("USED", "ENDS"),
)


@click.group("callers", cls=Group)
def callers() -> None:
    """The services that may ask for tokens, and their keys."""


@callers.command("add", example="broker callers add reporting --account 'kit-*' --account acme --expires 90d")
@click.argument("name", type=arguments.caller)
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
@click.option("--expires", type=arguments.duration, help='When the key ends, as in "90d"; never without it.')
def add_caller(
    context: CommandContext,
    *,
    name: str,
    globs: tuple[str, ...],
    permissions: tuple[str, ...],
    expires: int | None,
) -> None:
    """Let the service NAME in and print its key.

    The key is never shown again; only a hash of it is kept.
    """
    asked = {"accounts": list(globs), "permissions": list(permissions), "expires_in": expires}
    answer = context.broker.ask("POST", "/callers", body={"name": name, **asked})
    context.say(answer["key"], answer)


@callers.command("list", example="broker callers list")
def list_callers(context: CommandContext) -> None:
    """List the services, what they may do, and when each was last there."""
    answer = context.broker.ask("GET", "/callers")
    now = context.clock.now()
    context.show_list(
        answer,
        CALLER_COLUMNS,
        (_caller_row(caller, now) for caller in answer["callers"]),
        none="No callers yet. `broker callers add NAME --account GLOB` lets one in.",
    )


def _caller_row(caller: Mapping[str, Any], now: float) -> tuple[object, ...]:
    keys = caller["keys"]
    ends = [key["expires_at"] for key in keys]
    if not keys:
        last_end = "-"
    elif None in ends:
        last_end = "never"
    else:
        last_end = relative(max(ends, key=moment), now)
    return (
        caller["name"],
        Cell(caller["kind"], ["overridden by the configuration"] if caller["overridden"] else []),
        " ".join(caller["accounts"]),
        " ".join(caller["permissions"]),
        counted(len(keys), "key") if caller["kind"] == CallerKind.KEYS else None,
        last_end,
        relative(caller["last_used_at"], now),
    )


@callers.command("rotate", example="broker callers rotate reporting")
@caller_argument
@click.option("--now", is_flag=True, help="End the older of two keys at once, to make room.")
def rotate_caller(context: CommandContext, name: str, now: bool) -> None:
    """Print a new key for the service NAME.

    The old one works 24 hours longer. While two keys work, a third is made only with --now.
    """
    answer = context.broker.ask("POST", f"/callers/{name}/rotate", body={"now": now})
    context.say(answer["key"], answer)


@callers.command("remove", example="broker callers remove reporting")
@caller_argument
@yes
def remove_caller(context: CommandContext, name: str, yes: bool) -> None:
    """Shut the service NAME out, at once."""
    confirm(f"Remove {name}, whose keys stop working at once?", yes=yes)
    context.broker.ask("DELETE", f"/callers/{name}")
    context.say(f"{name} is removed.", {"name": name})


@click.group("plugin", cls=Group, former={"revoke": "remove"})
def plugin() -> None:
    """Clients that sign in to us, as Kit does for its plugins."""


@contextmanager
def _plugin_server() -> Iterator[None]:
    """Say what to do where the broker has no such routes."""
    try:
        yield
    except Failed as exc:
        if exc.message != "No such route":
            raise
        raise Failed("The server for plugins is off; [plugin] in the configuration turns it on.") from None


@plugin.command("connect-code", example="broker plugin connect-code --subject user-42")
@click.option("--subject", required=True, help="Who the person is to you.")
def connect_code(context: CommandContext, subject: str) -> None:
    """Print a code with which a person says who they are.

    It is good once, for ten minutes; give it to that person only. Where [login] is configured, people sign in
    there and need none.
    """
    with _plugin_server():
        code = context.broker.ask("POST", "/plugin/connect-codes", body={"subject": subject})
    context.say(code["connect_code"], code)


@plugin.command("grants", example="broker plugin grants --subject user-42")
@click.option("--subject", help="Only of this person.")
def list_grants(context: CommandContext, subject: str | None) -> None:
    """List what people have allowed clients."""
    with _plugin_server():
        found = context.broker.ask_all("/plugin/grants", "grants", {"subject": subject})
    now = context.clock.now()
    context.show_list(
        {"grants": found, "next_cursor": None},
        GRANT_COLUMNS,
        (
            (
                grant["grant"],
                grant["client"],
                Cell(grant["subject"], [grant["scope"]]),
                grant["account"],
                relative(grant["last_used_at"], now),
                relative(grant["expires_at"], now),
            )
            for grant in found
        ),
        none="No grants.",
    )


@plugin.command("remove", example="broker plugin remove 0123456789abcdef")
@click.argument("grant", type=arguments.grant)
@yes
def remove_grant(context: CommandContext, grant: str, yes: bool) -> None:
    """End GRANT, at once.

    The client is not told; its next call here is refused. Uninstall at Kit is the ordinary way.
    """
    confirm(f"End {grant}, whose tokens stop working at once?", yes=yes)
    with _plugin_server():
        context.broker.ask("DELETE", f"/plugin/grants/{grant}")
    context.say(f"{grant} is ended.", {"grant": grant})
