"""`broker dashboard`: the way into the dashboard."""

import click

from broker.cli.command import Command, as_json, say
from broker.cli.desk import Desk


@click.command("dashboard", cls=Command, example="broker dashboard")
@as_json
@click.pass_obj
def dashboard(desk: Desk, as_json: bool) -> None:
    """Print a link that opens the dashboard once, within a minute.

    Whoever opens it is signed in for twelve hours, in your name.
    """
    link = desk.broker.ask("POST", "/dashboard-links")
    say(link["url"], link, as_json=as_json)
