"""`broker dashboard`: the way into the dashboard."""

import click

from broker.cli.command import Command, as_json, say
from broker.cli.desk import Desk
from broker.cli.tables import Column, show_json, show_table

COLUMNS = [Column("SESSION"), Column("WHO"), Column("SIGNED IN"), Column("ENDS")]


@click.command("dashboard", cls=Command, example="broker dashboard")
@click.option("--sessions", "action", flag_value="sessions", help="List who is signed in instead.")
@click.option("--sign-out", "action", flag_value="sign-out", help="Sign out every browser instead.")
@as_json
@click.pass_obj
def dashboard(desk: Desk, *, action: str | None, as_json: bool) -> None:
    """Print a link that opens the dashboard once, within a minute.

    Whoever opens it is signed in for twelve hours, in your name.
    """
    if action == "sessions":
        found = desk.broker.ask("GET", "/dashboard-sessions")
        if as_json:
            show_json(found)
            return
        rows = (
            [one["id"], one["actor"], one["signed_in_at"], one["expires_at"]] for one in found["sessions"]
        )
        show_table(COLUMNS, rows)
    elif action == "sign-out":
        ended = desk.broker.ask("DELETE", "/dashboard-sessions")
        say(f"Signed out: {ended['ended']}.", ended, as_json=as_json)
    else:
        link = desk.broker.ask("POST", "/dashboard-links")
        say(link["url"], link, as_json=as_json)
