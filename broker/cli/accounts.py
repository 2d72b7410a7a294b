"""`broker accounts`, `token` and `install-link`: connections, their tokens, and links that make new ones."""

import errno
import json
import os
import shlex
import stat
import time
from collections.abc import Callable, Mapping
from pathlib import Path

import click

from broker.cli import arguments
from broker.cli.admin_socket import AdminSocket, Object
from broker.cli.arguments import account_argument, account_option, provider_argument, removed_argument
from broker.cli.command import Command, CommandContext, Group, confirm, yes
from broker.cli.output import FOLDED, WHOLE, Cell, Failed, one_line, show_facts, show_json
from broker.files import NOT_OURS, write_own
from broker.model import Status
from broker.times import both, moment, relative, span

KNOWN = {"ACCOUNT": FOLDED, "PROVIDER": FOLDED, "STATUS": WHOLE}
DEPRECATED = frozenset({"expires_at"})
TOKEN_FORMATS: Mapping[str, Callable[[Object], str]] = {
    "token": lambda answer: answer["access_token"],
    "json": lambda answer: json.dumps(answer, indent=2),
    "header": lambda answer: f"Authorization: Bearer {answer['access_token']}",
    # Quoted for a shell, which systemd's EnvironmentFile= reads too.
    "env": lambda answer: f"ACCESS_TOKEN={shlex.quote(answer['access_token'])}",
}
WATCH_WAIT = 60
"""Seconds that the broker holds a request until the token changes."""
WATCH_PAUSE = 1.0
WATCH_RETRY = 5.0


@click.group("accounts", cls=Group)
def accounts() -> None:
    """List and manage the connected accounts."""


@accounts.command("list", example="broker accounts list --status needs_reauthorization")
@click.option(
    "--provider",
    type=arguments.provider,
    shell_complete=arguments.complete_providers,
    help="List only accounts of this provider.",
)
@click.option("--status", type=click.Choice([*map(str, Status)]), help="List only accounts with this status.")
@click.option("--subject", help="List only accounts of this user or customer of yours.")
@click.option(
    "--expiring-within", type=arguments.duration, help='List only tokens that expire within, as in "2h".'
)
@click.option("--removed", is_flag=True, help="List the removed accounts that `restore` can bring back.")
def list_accounts(context: CommandContext, *, removed: bool, **asked: str | int | None) -> None:
    """List all accounts."""
    if any(asked.values()):
        none = "No account matches."
    elif removed:
        none = "No account was removed in the last 30 days."
    else:
        none = "No accounts yet. `broker install-link kit` prints a link that connects one."
    times = {"TOKEN ENDS": "provider_expires_at", "USED": "last_used_at"}
    if removed:
        times = {"REMOVED": "removed_at"}

    def row(account: Object, now: float) -> tuple[object, ...]:
        status = Cell(account["status"], [account["reason"]])
        ends = (relative(account[member], now) for member in times.values())
        return account["account"], account["provider"], status, *ends

    query = {**asked, "removed": 1 if removed else None}
    answer = context.broker.ask_all("/accounts", "accounts", query)
    context.show_list(answer, "accounts", KNOWN | dict.fromkeys(times, WHOLE), row, none=none)


@accounts.command("show", example="broker accounts show acme")
@account_argument
def show_account(context: CommandContext, account: str) -> None:
    """Show everything known about ACCOUNT, except its token."""
    found = context.broker.ask("GET", f"/accounts/{account}")
    if context.as_json:
        show_json(found)
        return
    now = context.clock.now()

    def fact(name: str, value: object) -> object:
        if name == "status":
            return Cell(value)
        if isinstance(value, str) and (name == "since" or name.endswith("_at")):
            return both(value, now)
        if isinstance(value, bool):
            return "yes" if value else "no"
        return value

    show_facts((name, fact(name, value)) for name, value in found.items() if name not in DEPRECATED)


@accounts.command("refresh", example="broker accounts refresh acme")
@account_argument
def refresh_account(context: CommandContext, account: str) -> None:
    """Renew the token of ACCOUNT now.

    This also retries an account that needs re-authorization, or that waits for its next attempt.
    """
    answer = context.broker.ask("POST", f"/token/{account}/refresh", body={})
    end = answer["provider_expires_at"]
    valid = "has no stated end" if end is None else f"valid for {span(moment(end) - context.clock.now())}"
    shown = {name: answer[name] for name in ("account", "generation", "provider_expires_at")}
    context.say(f"Renewed {account}: generation {answer['generation']}, {valid}.", shown)


@accounts.command("test", example="broker accounts test acme")
@account_argument
def test_account(context: CommandContext, account: str) -> None:
    """Ask the provider of ACCOUNT whether it accepts the token, and for which account it is.

    The token is renewed first if it has expired. The exit code is 1 unless the provider names the right account.
    """
    found = context.broker.ask("POST", f"/accounts/{account}/test")
    whose = " ".join(filter(None, (found["external_id"], found["label"] and f"({found['label']})")))
    sentences = {
        "accepted": f"The provider accepts the token of {account}: it is for {whose}.",
        "another_account": f"The token of {account} is for another account at the provider: {whose}.",
        "rejected": f"The provider rejects the token of {account}: {found['detail']}.",
        "unknown": f"The provider does not say whether it accepts the token of {account}: {found['detail']}.",
    }
    if found["result"] != "accepted":
        if context.as_json:
            show_json(found)
        raise Failed(sentences[found["result"]])
    context.say(sentences["accepted"], found)


@accounts.command("rename", example="broker accounts rename kit-12345 acme")
@account_argument
@click.argument("new_name", type=arguments.account)
def rename_account(context: CommandContext, account: str, new_name: str) -> None:
    """Rename ACCOUNT to NEW_NAME.

    Services must ask for the new name immediately.
    """
    found = context.broker.ask("PATCH", f"/accounts/{account}", body={"name": new_name})
    context.say(f"Account {account} is now called {new_name}.", found)


@accounts.command("freeze", example="broker accounts freeze acme")
@account_argument
def freeze_account(context: CommandContext, account: str) -> None:
    """Stop renewing ACCOUNT until it is unfrozen.

    Its access token is still issued while it is valid.
    """
    found = context.broker.ask("POST", f"/accounts/{account}/freeze")
    context.say(f"Account {account} is frozen.", found)


@accounts.command("unfreeze", example="broker accounts unfreeze acme")
@account_argument
def unfreeze_account(context: CommandContext, account: str) -> None:
    """Renew ACCOUNT again after it was frozen."""
    found = context.broker.ask("POST", f"/accounts/{account}/unfreeze")
    context.say(f"Account {account} is {found['status']}.", found)


@accounts.command(
    "remove", example="broker accounts remove acme\nbroker accounts remove acme --revoke --purge --yes"
)
@account_argument
@click.option(
    "--revoke", is_flag=True, help="Revoke the grant at the provider; at Kit this uninstalls the app."
)
@click.option("--purge", is_flag=True, help="Delete the account immediately; it cannot be restored.")
@yes
def remove_account(context: CommandContext, account: str, *, revoke: bool, purge: bool, yes: bool) -> None:
    """Remove ACCOUNT, so that its tokens are no longer issued.

    `broker accounts restore` brings it back for 30 days.
    """
    gone = "for good" if purge else "(it can be restored for 30 days)"
    revoked = ", after revoking its grant at the provider" if revoke else ""
    confirm(f"Remove {account} {gone}{revoked}?", yes=yes)
    query = {"revoke": 1 if revoke else None, "purge": 1 if purge else None}
    context.broker.ask("DELETE", f"/accounts/{account}", query=query)
    way_back = f"Bring it back within 30 days with: broker accounts restore {account}"
    sentence = f"Account {account} is deleted." if purge else f"Account {account} is removed. {way_back}"
    context.say(sentence, {"account": account, "purged": purge, "revoked": revoke})


@accounts.command("restore", example="broker accounts restore acme")
@removed_argument
def restore_account(context: CommandContext, account: str) -> None:
    """Bring back ACCOUNT, which was removed in the last 30 days."""
    found = context.broker.ask("POST", f"/accounts/{account}/restore")
    context.say(f"Account {account} is restored: {found['status']}.", found)


@click.command(
    "token",
    cls=Command,
    example="broker token acme --format header | curl -H @- https://api.kit.com/v4/account",
)
@account_argument
@click.option(
    "--min-ttl",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="Renew the token first if it expires sooner than this.",
)
@click.option(
    "--format",
    "shape",
    type=click.Choice([*TOKEN_FORMATS], case_sensitive=False),
    help="What to print. Default: token.",
)
@click.option("--to", type=click.Path(path_type=Path), metavar="FILE", help="Write it to FILE instead.")
@click.option("--watch", is_flag=True, help="Keep running, and write FILE again whenever the token changes.")
def token(
    context: CommandContext,
    *,
    account: str,
    min_ttl: int | None,
    shape: str | None,
    to: Path | None,
    watch: bool,
) -> None:
    """Print a valid access token of ACCOUNT, and nothing else.

    Pass it on through a pipe, never as an argument, because every user of the machine can list arguments. FILE is
    replaced whole; only the owner of its folder can read it.
    """
    if context.as_json and shape not in (None, "json"):
        raise click.UsageError(f"--json and --format {shape} contradict each other: leave one of them out")
    if watch and to is None:
        raise click.UsageError("--watch needs --to FILE")
    shown = TOKEN_FORMATS["json" if context.as_json else shape or "token"]
    query: dict[str, object] = {"min_ttl": min_ttl}
    answer = context.broker.ask("GET", f"/token/{account}", query=query)
    while True:
        if warning := answer.get("warning"):
            click.echo(one_line(f"Warning: {warning}"), err=True)
        if to is None:
            click.echo(shown(answer))
            return
        _write_token(to, shown(answer))
        if not watch:
            return
        answer = _next_token(context.broker, account, answer, query)


def _write_token(file: Path, text: str) -> None:
    try:
        # As root this would replace /dev/null, or /dev/stdout, which is a link.
        if os.path.lexists(file) and not stat.S_ISREG(file.lstat().st_mode):
            raise OSError(errno.EINVAL, NOT_OURS)
        write_own(file, f"{text}\n".encode())
    except OSError as exc:
        raise Failed(f"{file} cannot be written: {exc.strerror or exc}.") from None


def _next_token(broker: AdminSocket, account: str, last: Object, query: Mapping[str, object]) -> Object:
    """Wait until another token than the last is answered; what keeps it away is printed once."""
    told = None
    while True:
        try:
            known = f'"{last["generation"]}"'
            answer = broker.ask("GET", f"/token/{account}", query={**query, "wait": WATCH_WAIT}, known=known)
        except Failed as exc:
            if told != (told := exc.message):
                click.echo(one_line(f"{told} The file keeps the last token."), err=True)
            time.sleep(WATCH_RETRY)
            continue
        # Also the same token with a later end: while the old generation is asked about, nothing waits.
        if answer and any(answer[name] != last[name] for name in ("generation", "access_token")):
            return answer
        # Without a wait in the broker, as near the token's end, this must not become a busy loop.
        time.sleep(WATCH_PAUSE)


@click.command("install-link", cls=Command, example="broker install-link kit --account acme")
@provider_argument
@account_option(help="The account's name in the broker. Default: made from its id at the provider.")
@click.option("--org", help="The organisation at the provider, if its addresses name one (Kustomer).")
@click.option("--return-to", metavar="URL", help="The page that the browser ends at.")
@click.option("--replace", is_flag=True, help="Let another identity replace the one that the account has.")
@click.option(
    "--from-kit", is_flag=True, help="Print Kit's own page for the app, where the user clicks Install."
)
def install_link(
    context: CommandContext, *, provider: str, from_kit: bool, **options: str | bool | None
) -> None:
    """Print a link that connects an account of PROVIDER.

    It is valid for an hour and for one connection. Send it to the user whose account it is.
    """
    if not from_kit:
        link = context.broker.ask("POST", "/installs", body={"provider": provider, **options})
        context.say(link["install_url"], link)
        return
    if any(options.values()):
        raise click.UsageError("--from-kit takes no other options, because Kit's page knows none of them")
    for known in context.broker.ask("GET", "/providers")["providers"]:
        if known["name"] == provider and (page := known["install_page"]):
            context.say(page, {"install_url": page, "expires_at": None})
            return
    raise Failed(f"Provider {provider} has no page of its own; only the type kit with an app_id has one.")
