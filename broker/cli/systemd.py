"""`broker systemd`: the units that the broker runs as, and the rules that watch it."""

from pathlib import Path

import click

from broker.cli.command import Group, as_json
from broker.cli.failed import Failed
from broker.cli.tables import show_json
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
@click.option(
    "--exec",
    "command",
    type=click.Path(path_type=Path),
    metavar="PATH",
    help="The broker that the service runs; default this one, with --root /usr/local/bin/broker.",
)
@as_json
def install_unit(root: Path, command: Path | None, as_json: bool) -> None:
    """Write the service and the socket, and say what to do next.

    Older ones are kept as .bak.
    """
    if command is not None and not command.is_absolute():
        raise click.BadParameter(f"{command} is no absolute path, which systemd needs", param_hint="--exec")
    try:
        lines = install(root, command)
    except OSError as exc:
        raise Failed(f"{exc.filename or root} cannot be written: {exc.strerror}; are you root?") from None
    if as_json:
        heading = lines.index("Next:")
        show_json({"done": lines[:heading], "next": [line.strip() for line in lines[heading + 1 :]]})
        return
    for line in lines:
        click.echo(line)


@systemd.command("alerts", example="broker systemd alerts > /etc/prometheus/rules/token-broker.yaml")
def print_rules() -> None:
    """Print alert rules for Prometheus, as the YAML file that it reads."""
    click.echo(alert_rules(), nl=False)
