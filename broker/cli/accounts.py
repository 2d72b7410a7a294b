"""`broker accounts`: look at connections and look after them."""

from typing import Any

import click

from broker.cli import complete, words
from broker.cli.command import Group, as_json, confirm, say, yes
from broker.cli.desk import Desk
from broker.cli.tables import Cell, Column, show_facts, show_json, show_table
from broker.model import Status
from broker.times import both, moment, relative, span

PAGE = 1000
COLUMNS = (
    Column("ACCOUNT", breaks=True),
    Column("PROVIDER", breaks=True),
    Column("STATUS"),
    Column("TOKEN ENDS"),
    Column("USED"),
)
REMOVED = (*COLUMNS[:3], Column("REMOVED"))
TIMES = frozenset(
    (
        "since",
        "provider_expires_at",
        "refreshed_at",
        "last_used_at",
        "next_renewal_at",
        "created_at",
        "removed_at",
    )
)
DEPRECATED = frozenset({"expires_at"})


@click.group("accounts", cls=Group)
def accounts() -> None:
    """Look at connections and look after them."""


@accounts.command("list", example="broker accounts list --status needs_reauthorization")
@click.option(
    "--provider", type=words.provider, shell_complete=complete.providers, help="Only of this provider."
)
@click.option("--status", type=click.Choice([str(status) for status in Status]), help="Only of this status.")
@click.option("--subject", help="Only of this person or customer at the company.")
@click.option("--expiring-within", type=words.duration, help='Only with tokens that end so soon, as in "2h".')
@click.option("--removed", is_flag=True, help="Those that `restore` can bring back, instead.")
@as_json
@click.pass_obj
def list_accounts(
    desk: Desk,
    *,
    provider: str | None,
    status: str | None,
    subject: str | None,
    expiring_within: int | None,
    removed: bool,
    as_json: bool,
) -> None:
    """List all accounts."""
    asked = {"provider": provider, "status": status, "subject": subject, "expiring_within": expiring_within}
    found = _all(desk, {**asked, "removed": 1 if removed else None})
    if as_json:
        show_json({"accounts": found, "next_cursor": None})
    elif found:
        now = desk.clock.now()
        columns = REMOVED if removed else COLUMNS
        show_table(columns, (_row(account, now, removed=removed) for account in found))
    elif any(asked.values()):
        click.echo("No account matches.")
    elif removed:
        click.echo("No account was removed in the last 30 days.")
    else:
        click.echo("No accounts yet. `broker install-link kit` prints a link that connects one.")


@accounts.command("show", example="broker accounts show acme")
@click.argument("account", type=words.account, shell_complete=complete.accounts)
@as_json
@click.pass_obj
def show_account(desk: Desk, account: str, as_json: bool) -> None:
    """Show all that is known of ACCOUNT, but never its token."""
    found = desk.broker.ask("GET", f"/accounts/{account}")
    if as_json:
        show_json(found)
        return
    now = desk.clock.now()
    show_facts((name, _fact(name, value, now)) for name, value in found.items() if name not in DEPRECATED)


@accounts.command("refresh", example="broker accounts refresh acme")
@click.argument("account", type=words.account, shell_complete=complete.accounts)
@as_json
@click.pass_obj
def refresh_account(desk: Desk, account: str, as_json: bool) -> None:
    """Renew the token of ACCOUNT now.

    Also one that is given up, or that waits for its next attempt.
    """
    answer = desk.broker.ask("POST", f"/token/{account}/refresh", body={})
    end = answer["provider_expires_at"]
    lives = "has no stated end" if end is None else f"lives {span(moment(end) - desk.clock.now())}"
    shown = {name: answer[name] for name in ("account", "generation", "provider_expires_at")}
    say(f"Renewed {account}: generation {answer['generation']}, {lives}.", shown, as_json=as_json)


@accounts.command("rename", example="broker accounts rename kit-12345 acme")
@click.argument("account", type=words.account, shell_complete=complete.accounts)
@click.argument("new_name", type=words.account)
@as_json
@click.pass_obj
def rename_account(desk: Desk, account: str, new_name: str, as_json: bool) -> None:
    """Call ACCOUNT NEW_NAME from now on.

    Services must ask for the new name at once.
    """
    found = desk.broker.ask("PATCH", f"/accounts/{account}", body={"name": new_name})
    say(f"{account} is {new_name} now.", found, as_json=as_json)


@accounts.command("freeze", example="broker accounts freeze acme")
@click.argument("account", type=words.account, shell_complete=complete.accounts)
@as_json
@click.pass_obj
def freeze_account(desk: Desk, account: str, as_json: bool) -> None:
    """Renew ACCOUNT no more until it is unfrozen.

    A living token is still handed out.
    """
    found = desk.broker.ask("POST", f"/accounts/{account}/freeze")
    say(f"{account} is frozen.", found, as_json=as_json)


@accounts.command("unfreeze", example="broker accounts unfreeze acme")
@click.argument("account", type=words.account, shell_complete=complete.accounts)
@as_json
@click.pass_obj
def unfreeze_account(desk: Desk, account: str, as_json: bool) -> None:
    """Renew ACCOUNT again."""
    found = desk.broker.ask("POST", f"/accounts/{account}/unfreeze")
    say(f"{account} is {found['status']}.", found, as_json=as_json)


@accounts.command(
    "remove", example="broker accounts remove acme\nbroker accounts remove acme --revoke --purge --yes"
)
@click.argument("account", type=words.account, shell_complete=complete.accounts)
@click.option(
    "--revoke", is_flag=True, help="Also revoke the grant at the provider; at Kit this uninstalls the app."
)
@click.option("--purge", is_flag=True, help="Forget it at once; it cannot be restored.")
@yes
@as_json
@click.pass_obj
def remove_account(desk: Desk, account: str, *, revoke: bool, purge: bool, yes: bool, as_json: bool) -> None:
    """Hand out no more tokens of ACCOUNT.

    For 30 days `broker accounts restore` undoes it.
    """
    confirm(_question(account, revoke=revoke, purge=purge), yes=yes)
    query = {"revoke": 1 if revoke else None, "purge": 1 if purge else None}
    desk.broker.ask("DELETE", f"/accounts/{account}", query=query)
    way_back = f"for 30 days `broker accounts restore {account}` brings it back"
    sentence = f"{account} is forgotten." if purge else f"{account} is removed; {way_back}."
    say(sentence, {"account": account, "purged": purge, "revoked": revoke}, as_json=as_json)


@accounts.command("restore", example="broker accounts restore acme")
@click.argument("account", type=words.account, shell_complete=complete.removed)
@as_json
@click.pass_obj
def restore_account(desk: Desk, account: str, as_json: bool) -> None:
    """Bring back ACCOUNT, removed in the last 30 days."""
    found = desk.broker.ask("POST", f"/accounts/{account}/restore")
    say(f"{account} is back: {found['status']}.", found, as_json=as_json)


def _all(desk: Desk, query: dict[str, object | None]) -> list[dict[str, Any]]:
    """The accounts of all pages."""
    broker, found, cursor = desk.broker, [], None
    while True:
        page = broker.ask("GET", "/accounts", query={**query, "limit": PAGE, "cursor": cursor})
        found += page["accounts"]
        cursor = page["next_cursor"]
        if cursor is None:
            return found


def _row(account: dict[str, Any], now: float, *, removed: bool) -> tuple[object, ...]:
    known = account["account"], account["provider"], Cell(account["status"], [account["reason"]])
    if removed:
        return *known, relative(account["removed_at"], now)
    return (
        *known,
        relative(account["provider_expires_at"], now),
        relative(account["last_used_at"], now),
    )


def _fact(name: str, value: object, now: float) -> object:
    if name == "status":
        return Cell(value)
    if name in TIMES and isinstance(value, str):
        return both(value, now)
    if isinstance(value, bool):
        return "yes" if value else "no"
    return value


def _question(account: str, *, revoke: bool, purge: bool) -> str:
    """What a person is asked before the account goes."""
    gone = "for good" if purge else "(restorable for 30 days)"
    revoked = ", after revoking its grant at the provider" if revoke else ""
    return f"Remove {account} {gone}{revoked}?"
