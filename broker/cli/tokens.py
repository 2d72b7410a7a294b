"""`broker token`: one account's token, for scripts and people."""

from enum import StrEnum
from typing import Any, assert_never

import click

from broker.cli import complete, words
from broker.cli.command import Command, as_json
from broker.cli.desk import Desk
from broker.cli.tables import show_json
from broker.cli.text import one_line


class Format(StrEnum):
    """How a token is printed."""

    TOKEN = "token"  # noqa: S105 - a format, not a secret
    JSON = "json"
    HEADER = "header"


@click.command(
    "token",
    cls=Command,
    example="broker token acme --format header | curl -H @- https://api.kit.com/v4/account",
)
@click.argument("account", type=words.account, shell_complete=complete.accounts)
@click.option(
    "--min-ttl",
    type=click.IntRange(min=0),
    metavar="SECONDS",
    help="Renew first if the token lives shorter than this.",
)
@click.option(
    "--format",
    "shape",
    type=click.Choice(Format, case_sensitive=False),
    default=Format.TOKEN,
    help="Default: token.",
)
@as_json
@click.pass_obj
def token(desk: Desk, account: str, min_ttl: int | None, shape: Format, as_json: bool) -> None:
    """Print a fresh token of ACCOUNT, and nothing else.

    Pass it on through a pipe, never as an argument: every user of the machine can list those.
    """
    answer = desk.broker.ask("GET", f"/token/{account}", query={"min_ttl": min_ttl})
    if warning := answer.get("warning"):
        click.echo(one_line(f"Warning: {warning}"), err=True)
    _print(answer, Format.JSON if as_json else shape)


def _print(answer: dict[str, Any], shape: Format) -> None:
    match shape:
        case Format.TOKEN:
            click.echo(answer["access_token"])
        case Format.HEADER:
            click.echo(f"Authorization: Bearer {answer['access_token']}")
        case Format.JSON:
            show_json(answer)
        case _:
            assert_never(shape)
