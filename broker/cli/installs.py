"""`broker install-link`: an address with which a person connects an account."""

import click

from broker.cli import complete, words
from broker.cli.command import Command, as_json, say
from broker.cli.desk import Desk
from broker.cli.failed import Failed


@click.command("install-link", cls=Command, example="broker install-link kit --account acme")
@click.argument("provider", type=words.provider, shell_complete=complete.providers)
@click.option(
    "--account",
    type=words.account,
    shell_complete=complete.accounts,
    help="Its name here; without it, the provider's id names it.",
)
@click.option("--org", help="The organisation at the provider, where its addresses hold one (Kustomer).")
@click.option("--return-to", metavar="URL", help="Where the browser goes in the end.")
@click.option("--replace", is_flag=True, help="Allow another identity to take the account's place.")
@click.option("--from-kit", is_flag=True, help="Kit's own page for the app, where the person clicks Install.")
@as_json
@click.pass_obj
def install_link(
    desk: Desk,
    *,
    provider: str,
    account: str | None,
    org: str | None,
    return_to: str | None,
    replace: bool,
    from_kit: bool,
    as_json: bool,
) -> None:
    """Print a link that connects an account of PROVIDER.

    It is good for an hour and for one connection. Send it to the person whose account it is.
    """
    if from_kit:
        if account or org or return_to or replace:
            raise click.UsageError("--from-kit goes without other options: Kit's page knows none of them")
        address = _kit_page(desk, provider)
        say(address, {"install_url": address, "expires_at": None}, as_json=as_json)
        return
    body = {
        "provider": provider,
        "account": account,
        "org": org,
        "return_to": return_to,
        "replace": replace,
    }
    link = desk.broker.ask("POST", "/installs", body=body)
    say(link["install_url"], link, as_json=as_json)


def _kit_page(desk: Desk, provider: str) -> str:
    for known in desk.broker.ask("GET", "/providers")["providers"]:
        if known["name"] == provider and known["install_page"]:
            return str(known["install_page"])
    raise Failed(f"{provider} has no page of its own; that needs a provider of type kit with an app_id")
