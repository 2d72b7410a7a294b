"""`broker accounts`, `token` and `install-link`: connections, their tokens, and how a new one is made."""

import click

from broker.cli import arguments
from broker.cli.admin_socket import Object
from broker.cli.arguments import account_argument, account_option, provider_argument, removed_argument
from broker.cli.command import Command, CommandContext, Group, confirm, yes
from broker.cli.output import FOLDED, WHOLE, Cell, Failed, one_line, show_facts, show_json
from broker.model import Status
from broker.times import both, moment, relative, span

KNOWN = {"ACCOUNT": FOLDED, "PROVIDER": FOLDED, "STATUS": WHOLE}
DEPRECATED = frozenset({"expires_at"})


@click.group("accounts", cls=Group)
def accounts() -> None:
    """Look at connections and look after them."""


@accounts.command("list", example="broker accounts list --status needs_reauthorization")
@click.option(
    "--provider",
    type=arguments.provider,
    shell_complete=arguments.complete_providers,
    help="Only of this provider.",
)
@click.option("--status", type=click.Choice([str(status) for status in Status]), help="Only of this status.")
@click.option("--subject", help="Only of this person or customer at the company.")
@click.option(
    "--expiring-within", type=arguments.duration, help='Only with tokens that end so soon, as in "2h".'
)
@click.option("--removed", is_flag=True, help="Those that `restore` can bring back, instead.")
def list_accounts(context: CommandContext, *, removed: bool, **asked: str | int | None) -> None:
    """List all accounts."""
    if any(asked.values()):
        none = "No account matches."
    elif removed:
        none = "No account was removed in the last 30 days."
    else:
        none = "No accounts yet. `broker install-link kit` prints a link that connects one."
    times = (
        {"REMOVED": "removed_at"}
        if removed
        else {"TOKEN ENDS": "provider_expires_at", "USED": "last_used_at"}
    )

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
    """Show all that is known of ACCOUNT, but never its token."""
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

    Also one that is given up, or that waits for its next attempt.
    """
    answer = context.broker.ask("POST", f"/token/{account}/refresh", body={})
    end = answer["provider_expires_at"]
    lives = "has no stated end" if end is None else f"lives {span(moment(end) - context.clock.now())}"
    shown = {name: answer[name] for name in ("account", "generation", "provider_expires_at")}
    context.say(f"Renewed {account}: generation {answer['generation']}, {lives}.", shown)


@accounts.command("rename", example="broker accounts rename kit-12345 acme")
@account_argument
@click.argument("new_name", type=arguments.account)
def rename_account(context: CommandContext, account: str, new_name: str) -> None:
    """Call ACCOUNT NEW_NAME from now on.

    Services must ask for the new name at once.
    """
    found = context.broker.ask("PATCH", f"/accounts/{account}", body={"name": new_name})
    context.say(f"{account} is {new_name} now.", found)


@accounts.command("freeze", example="broker accounts freeze acme")
@account_argument
def freeze_account(context: CommandContext, account: str) -> None:
    """Renew ACCOUNT no more until it is unfrozen.

    A living token is still handed out.
    """
    found = context.broker.ask("POST", f"/accounts/{account}/freeze")
    context.say(f"{account} is frozen.", found)


@accounts.command("unfreeze", example="broker accounts unfreeze acme")
@account_argument
def unfreeze_account(context: CommandContext, account: str) -> None:
    """Renew ACCOUNT again."""
    found = context.broker.ask("POST", f"/accounts/{account}/unfreeze")
    context.say(f"{account} is {found['status']}.", found)


@accounts.command(
    "remove", example="broker accounts remove acme\nbroker accounts remove acme --revoke --purge --yes"
)
@account_argument
@click.option(
    "--revoke", is_flag=True, help="Also revoke the grant at the provider; at Kit this uninstalls the app."
)
@click.option("--purge", is_flag=True, help="Forget it at once; it cannot be restored.")
@yes
def remove_account(context: CommandContext, account: str, *, revoke: bool, purge: bool, yes: bool) -> None:
    """Hand out no more tokens of ACCOUNT.

    For 30 days `broker accounts restore` undoes it.
    """
    gone = "for good" if purge else "(restorable for 30 days)"
    revoked = ", after revoking its grant at the provider" if revoke else ""
    confirm(f"Remove {account} {gone}{revoked}?", yes=yes)
    query = {"revoke": 1 if revoke else None, "purge": 1 if purge else None}
    context.broker.ask("DELETE", f"/accounts/{account}", query=query)
    way_back = f"for 30 days `broker accounts restore {account}` brings it back"
    sentence = f"{account} is forgotten." if purge else f"{account} is removed; {way_back}."
    context.say(sentence, {"account": account, "purged": purge, "revoked": revoke})


@accounts.command("restore", example="broker accounts restore acme")
@removed_argument
def restore_account(context: CommandContext, account: str) -> None:
    """Bring back ACCOUNT, removed in the last 30 days."""
    found = context.broker.ask("POST", f"/accounts/{account}/restore")
    context.say(f"{account} is back: {found['status']}.", found)


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
    help="Renew first if the token lives shorter than this.",
)
@click.option(
    "--format",
    "shape",
    type=click.Choice(["token", "json", "header"], case_sensitive=False),
    help="Default: token.",
)
def token(context: CommandContext, account: str, min_ttl: int | None, shape: str | None) -> None:
    """Print a fresh token of ACCOUNT, and nothing else.

    Pass it on through a pipe, never as an argument: every user of the machine can list those.
    """
    if context.as_json and shape not in (None, "json"):
        raise click.UsageError(f"--json and --format {shape} contradict each other: leave one of them out")
    answer = context.broker.ask("GET", f"/token/{account}", query={"min_ttl": min_ttl})
    if warning := answer.get("warning"):
        click.echo(one_line(f"Warning: {warning}"), err=True)
    if context.as_json or shape == "json":
        show_json(answer)
    else:
        click.echo(f"{'Authorization: Bearer ' if shape == 'header' else ''}{answer['access_token']}")


@click.command("install-link", cls=Command, example="broker install-link kit --account acme")
@provider_argument
@account_option(help="Its name here; without it, the provider's id names it.")
@click.option("--org", help="The organisation at the provider, where its addresses hold one (Kustomer).")
@click.option("--return-to", metavar="URL", help="Where the browser goes in the end.")
@click.option("--replace", is_flag=True, help="Allow another identity to take the account's place.")
@click.option("--from-kit", is_flag=True, help="Kit's own page for the app, where the person clicks Install.")
def install_link(
    context: CommandContext, *, provider: str, from_kit: bool, **wishes: str | bool | None
) -> None:
    """Print a link that connects an account of PROVIDER.

    It is good for an hour and for one connection. Send it to the person whose account it is.
    """
    if not from_kit:
        link = context.broker.ask("POST", "/installs", body={"provider": provider, **wishes})
        context.say(link["install_url"], link)
        return
    if any(wishes.values()):
        raise click.UsageError("--from-kit goes without other options: Kit's page knows none of them")
    known = context.broker.ask("GET", "/providers")["providers"]
    pages = [one["install_page"] for one in known if one["name"] == provider and one["install_page"]]
    if not pages:
        raise Failed(f"{provider} has no page of its own; that needs a provider of type kit with an app_id")
    context.say(pages[0], {"install_url": pages[0], "expires_at": None})
