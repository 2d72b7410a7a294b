"""`broker dashboard`: the way into the dashboard."""

import click

from broker.cli.command import Command
from broker.cli.desk import Desk


@click.command("dashboard", cls=Command, example="broker dashboard")
@click.pass_obj
def dashboard(desk: Desk) -> None:
    """Print a link that opens the dashboard once, within a minute.

    Whoever opens it is signed in for twelve hours, in your name.
    """
    click.echo(desk.broker.ask("POST", "/dashboard-links")["url"])
