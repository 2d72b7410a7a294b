"""`broker version`: which one this is, and which one runs."""

from typing import Any

import click

from broker import __version__
from broker.cli.command import Command, as_json
from broker.cli.desk import Desk
from broker.cli.failed import Failed, NotStarted
from broker.cli.tables import show_json
from broker.cli.text import plain
from broker.times import relative


@click.command("version", cls=Command, example="broker version")
@as_json
@click.pass_obj
def version(desk: Desk, as_json: bool) -> None:
    """Print the version, and that of the running broker.

    The second line is missing where no broker answers, and says why where one cannot start.
    """
    running, why = _running(desk)
    if as_json:
        show_json({"version": __version__, "running": running} | ({"why_not": why} if why else {}))
        return
    click.echo(f"token-broker {__version__}")
    if running:
        started = relative(running["started_at"], desk.clock.now())
        click.echo(f"running {plain(running['version'])}, started {started}")
    elif why:
        click.echo(f"not running: {why}")


def _running(desk: Desk) -> tuple[dict[str, Any] | None, str | None]:
    try:
        return desk.broker.ask("GET", "/version"), None
    except NotStarted as exc:
        return None, exc.message
    except Failed:
        return None, None
