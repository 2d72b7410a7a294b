"""`broker callers`, `plugin` and `audit`: the callers and their keys, the clients of plugins, the audit."""

import asyncio
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import click

from broker.cli import arguments
from broker.cli.admin_socket import NoBroker, Object
from broker.cli.arguments import caller_argument
from broker.cli.command import CommandContext, Group, confirm, yes
from broker.cli.output import FOLDED, WHOLE, Cell, Failed, counted, plain, show_json
from broker.model import CallerKind, Permission
from broker.times import moment, relative

BLOCK = 64 * 1024
CALLER_COLUMNS = dict.fromkeys(("CALLER", "KIND", "ACCOUNTS", "PERMISSIONS"), FOLDED) | dict.fromkeys(
    ("KEYS", "LAST ENDS", "USED"), WHOLE
)
GRANT_COLUMNS = {
    "GRANT": WHOLE,
    **dict.fromkeys(("CLIENT", "SUBJECT", "ACCOUNT"), FOLDED),
    **dict.fromkeys(("USED", "ENDS"), WHOLE),
}


@click.group("callers", cls=Group)
def callers() -> None:
    """Manage the callers: the services that may ask for tokens, and their keys."""


@callers.command("add", example="broker callers add reporting --account 'kit-*' --account acme --expires 90d")
@click.argument("name", type=arguments.caller)
@click.option(
    "--account",
    "accounts",
    multiple=True,
    required=True,
    metavar="GLOB",
    help="An account it may use; repeatable.",
)
@click.option(
    "--permission",
    "permissions",
    multiple=True,
    type=click.Choice([*map(str, Permission)]),
    default=[str(Permission.TOKEN)],
    help="A permission of the caller; repeatable. Default: token.",
)
@click.option(
    "--expires",
    "expires_in",
    type=arguments.duration,
    help='The lifetime of the key, as in "90d". Default: no end.',
)
def add_caller(context: CommandContext, **asked: object) -> None:
    """Add the caller NAME and print its key.

    The key is never shown again, because only a hash of it is kept.
    """
    answer = context.broker.ask("POST", "/callers", body=asked)
    context.say(answer["key"], answer)


@callers.command("list", example="broker callers list")
def list_callers(context: CommandContext) -> None:
    """List the callers, what they may do, and when each last called."""
    none = "No callers yet. Add one with: broker callers add NAME --account GLOB"
    answer = context.broker.ask("GET", "/callers")
    context.show_list(answer, "callers", CALLER_COLUMNS, _caller_row, none=none)


def _caller_row(caller: Object, now: float) -> tuple[object, ...]:
    ends = [key["expires_at"] for key in caller["keys"]]
    return (
        caller["name"],
        Cell(caller["kind"], ["overridden by the configuration"] if caller["overridden"] else []),
        " ".join(caller["accounts"]),
        " ".join(caller["permissions"]),
        counted(len(ends), "key") if caller["kind"] == CallerKind.KEYS else None,
        "never" if None in ends else relative(max(ends, key=moment, default=None), now),
        relative(caller["last_used_at"], now),
    )


@callers.command("rotate", example="broker callers rotate reporting")
@caller_argument
@click.option("--now", is_flag=True, help="End the older of two keys immediately, to make room.")
def rotate_caller(context: CommandContext, name: str, now: bool) -> None:
    """Print a new key for the caller NAME.

    The old key works for 24 hours more. While two keys work, a third one needs --now.
    """
    answer = context.broker.ask("POST", f"/callers/{name}/rotate", body={"now": now})
    context.say(answer["key"], answer)


@callers.command("remove", example="broker callers remove reporting")
@caller_argument
@yes
def remove_caller(context: CommandContext, name: str, yes: bool) -> None:
    """Remove the caller NAME; its keys stop working immediately."""
    confirm(f"Remove {name}? Its keys stop working immediately.", yes=yes)
    context.broker.ask("DELETE", f"/callers/{name}")
    context.say(f"Caller {name} is removed.", {"name": name})


@click.group("plugin", cls=Group, former={"revoke": "remove"})
def plugin() -> None:
    """Manage the grants of clients that sign in to the broker, as Kit does for its plugins."""


@contextmanager
def _plugin_server() -> Iterator[None]:
    """Explain the failure of a broker that has no routes for plugins."""
    try:
        yield
    except Failed as exc:
        if exc.message != "No such route":
            raise
        raise Failed(
            "The server for plugins is off. Turn it on with [plugin] in the configuration."
        ) from None


@plugin.command("connect-code", example="broker plugin connect-code --subject user-42")
@click.option("--subject", required=True, help="Your own id of the user.")
def connect_code(context: CommandContext, subject: str) -> None:
    """Print a code that identifies a user to the plugin's consent page.

    It is valid once, for ten minutes; give it to that user only. With [login] in the configuration users sign in
    there and need none.
    """
    with _plugin_server():
        code = context.broker.ask("POST", "/plugin/connect-codes", body={"subject": subject})
    context.say(code["connect_code"], code)


@plugin.command("grants", example="broker plugin grants --subject user-42")
@click.option("--subject", help="List only grants of this user.")
def list_grants(context: CommandContext, subject: str | None) -> None:
    """List the grants that users have given to clients."""
    with _plugin_server():
        answer = context.broker.ask_all("/plugin/grants", "grants", {"subject": subject})
    context.show_list(answer, "grants", GRANT_COLUMNS, _grant_row, none="No grants.")


def _grant_row(grant: Object, now: float) -> tuple[object, ...]:
    used, end = relative(grant["last_used_at"], now), relative(grant["expires_at"], now)
    return (
        grant["grant"],
        grant["client"],
        Cell(grant["subject"], [grant["scope"]]),
        grant["account"],
        used,
        end,
    )


@plugin.command("remove", example="broker plugin remove 0123456789abcdef")
@click.argument("grant", type=arguments.grant)
@yes
def remove_grant(context: CommandContext, grant: str, yes: bool) -> None:
    """End GRANT immediately.

    The client is not notified; its next call is refused. The ordinary way is to uninstall the plugin at Kit.
    """
    confirm(f"End {grant}? Its tokens stop working immediately.", yes=yes)
    with _plugin_server():
        context.broker.ask("DELETE", f"/plugin/grants/{grant}")
    context.say(f"Grant {grant} is ended.", {"grant": grant})


@click.group("audit", cls=Group)
def audit() -> None:
    """Verify the record of who got which token."""


@audit.command(
    "verify",
    example="broker audit verify\n"
    "journalctl -u token-broker TOKEN_BROKER_AUDIT=1 -o cat | broker audit verify -",
)
@click.argument("files", nargs=-1, type=arguments.file_or_stdin)
@click.option("--part", is_flag=True, help="FILES are an excerpt, without the beginning and the end.")
def verify(context: CommandContext, files: tuple[Path, ...], part: bool) -> None:
    """Verify the audit's chains and name the first bad line.

    Without FILES it verifies the broker's own; `-` is standard input, where other lines may be in between. It finds
    lines that were changed, removed or moved, and an end that was cut off. It works with and without a running
    broker.
    """
    if part and not files:
        raise click.UsageError("--part needs FILES, because the broker's own audit is verified whole.")
    ends = list[int]()
    report = _verified(context, _blocks(files, ends) if files else None, part=part)
    problems = [_placed(problem, files, ends) for problem in report["problems"]]
    if context.as_json:
        show_json({**report, "problems": problems})
    else:
        for note in report["notes"]:
            click.echo(f"Note: {plain(note)}.")
    if not report["lines"]:
        raise Failed("There is no line of the audit here.")
    if problems:
        first, more = problems[0], len(problems) - 1 + report["more_problems"]
        words = (first["file"], first["line"] and f"line {first['line']}", first["what"])
        rest = f", and {counted(more, 'problem')} after it" if more else ""
        raise Failed(f"The audit was tampered with or damaged: {' '.join(filter(None, words))}{rest}.")
    if not context.as_json:
        click.echo(
            f"The audit is intact: {counted(report['lines'], 'line')} of {counted(report['chains'], 'start')},"
            f" from {report['begins_at']} to {report['ends_at']}."
        )


def _blocks(files: Iterable[Path], ends: list[int]) -> Iterator[bytes]:
    """Yield the bytes of all files, each with a newline at its end; raises Failed.

    The number of lines up to the end of each file is appended to `ends`.
    """
    lines = 0
    for path in files:
        last = b"\n"
        try:
            with click.open_file(str(path), "rb") as file:
                for block in iter(partial(file.read, BLOCK), b""):
                    lines += block.count(b"\n")
                    last = block[-1:]
                    yield block
        except OSError as exc:
            raise Failed(f"{exc.filename} cannot be read: {exc.strerror}.") from None
        if last != b"\n":
            lines += 1
            yield b"\n"
        ends.append(lines)


def _placed(problem: Object, files: tuple[Path, ...], ends: list[int]) -> Object:
    """Return the problem with the name of its file, and its line counted in that file."""
    before = 0
    for path, end in zip(files, ends, strict=True):
        if problem["line"] is not None and problem["line"] <= end:
            file = str(path) if path != Path("-") else ""
            return {**problem, "file": file, "line": problem["line"] - before}
        before = end
    return problem


def _verified(context: CommandContext, blocks: Iterator[bytes] | None, *, part: bool) -> dict[str, Any]:
    """Return the report of the running broker, or of this process if no broker runs."""
    broker = context.broker
    try:
        if blocks is None:
            return broker.ask("GET", "/audit/verify", patience=None)
        # If no broker answers, standard input must not have been read yet.
        broker.ask("GET", "/version")
        query = {"part": int(part)}
        return broker.ask("POST", "/audit/verify", query=query, body=blocks, patience=None)
    except NoBroker:
        pass
    from broker.app.offline import verify_offline  # noqa: PLC0415 - all of the server, which few commands need
    from broker.errors import StartRefused  # noqa: PLC0415 - the same

    async def read(blocks: Iterator[bytes]) -> AsyncIterator[bytes]:
        for block in blocks:
            yield block

    try:
        with context.offline_settings() as settings:
            return asyncio.run(
                verify_offline(settings, None if blocks is None else read(blocks), part=part)
            ).json()
    except StartRefused as exc:
        raise Failed(f"The audit cannot be verified: {exc}.") from None
    except OSError as exc:
        raise Failed(f"{exc.filename} cannot be read: {exc.strerror}.") from None
