"""`broker systemd`: the unit that the broker runs as, and the rules that watch it."""

from pathlib import Path

import click

from broker.cli.command import Group
from broker.cli.failed import Failed
from broker.systemd import alert_rules, install


@click.group("systemd", cls=Group)
def systemd() -> None:
    """Run the broker as a service of systemd."""


@systemd.command("install", example="sudo broker systemd install")
@click.option(
    "--root",
    type=click.Path(file_okay=False, path_type=Path),
    default=Path("/"),
    metavar="DIR",
    help="Lay it below this folder, as packages do; default /.",
)
def install_unit(root: Path) -> None:
    """Write token-broker.service and say what to do next.

    An older one is kept as .bak.
    """
    try:
        lines = install(root)
    except OSError as exc:
        raise Failed(f"{exc.filename or root} cannot be written: {exc.strerror}; are you root?") from None
    for line in lines:
        click.echo(line)


@systemd.command("alerts", example="broker systemd alerts > /etc/prometheus/rules/token-broker.yaml")
def print_rules() -> None:
    """Print alert rules for Prometheus."""
    click.echo(alert_rules(), nl=False)
