"""`broker providers`: whether each provider may be asked just now, and if not, why."""

from typing import Any

import click

from broker.cli import complete, words
from broker.cli.command import Group, as_json, say
from broker.cli.desk import Desk
from broker.cli.tables import Cell, Column, Lines, show_json, show_table
from broker.cli.text import plain
from broker.times import relative

COLUMNS = (
    Column("PROVIDER", breaks=True),
    Column("TYPE"),
    Column("BREAKER"),
    Column("ACCOUNTS"),
)


@click.group("providers", cls=Group)
def providers() -> None:
    """Look at the providers and resume them."""


@providers.command("list", example="broker providers list")
@as_json
@click.pass_obj
def list_providers(desk: Desk, as_json: bool) -> None:
    """List the providers, their breakers and their accounts."""
    answer = desk.broker.ask("GET", "/providers")
    if as_json:
        show_json(answer)
        return
    found, now = answer["providers"], desk.clock.now()
    if not found:
        click.echo("No providers yet. Add [providers.kit] or [providers.kustomer] to the configuration.")
        return
    show_table(COLUMNS, (_row(provider, now) for provider in found))
    for provider in found:
        if provider["what_to_do"]:
            click.echo(f"{plain(provider['name'])}: {plain(provider['what_to_do'])}")


@providers.command("resume", example="broker providers resume kit")
@click.argument("provider", type=words.provider, shell_complete=complete.providers)
@as_json
@click.pass_obj
def resume_provider(desk: Desk, provider: str, as_json: bool) -> None:
    """Close the breaker of PROVIDER, so that it is asked again."""
    found = desk.broker.ask("POST", f"/providers/{provider}/resume")
    say(f"{provider} is asked again.", found, as_json=as_json)


def _row(provider: dict[str, Any], now: float) -> tuple[object, ...]:
    counts = [f"{count} {status}" for status, count in provider["accounts"].items()]
    return (
        provider["name"],
        provider["type"],
        Cell(provider["breaker"], _why(provider, now)),
        Lines(counts or ["none"]),
    )


def _why(provider: dict[str, Any], now: float) -> list[str]:
    """Why it is not asked, since when, and when it is asked again; nothing where all is well."""
    why = [provider["reason"]] if provider["reason"] else []
    if provider["since"]:
        why.append(f"since {relative(provider['since'], now)}")
    if provider["paused_until"]:
        why.append(f"asked again {relative(provider['paused_until'], now)}")
    return why
