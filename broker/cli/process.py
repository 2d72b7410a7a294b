"""`broker serve` and `broker sandbox`: the commands that stay."""

import asyncio
from pathlib import Path

import click

from broker.cli import words
from broker.cli.command import Command, as_json, say
from broker.cli.desk import Desk
from broker.cli.failed import Failed
from broker.cli.tables import show_json
from broker.cli.text import plain
from broker.config.settings import TcpListen

HIGHEST_PORT = 65533
"""`public` and the sandbox take the two ports behind it."""


@click.command("serve", cls=Command, example="broker --config config.toml serve")
@click.option(
    "--port",
    type=click.IntRange(1, HIGHEST_PORT),
    help="Listen on loopback: internal here, public and sandbox on the next two.",
)
@click.pass_context
def serve(context: click.Context, port: int | None) -> None:
    """Run the broker until SIGTERM or Ctrl-C.

    `broker reload` or SIGHUP reloads the configuration.
    """
    from broker.serve import run  # noqa: PLC0415 - all of the server, which no other command needs

    desk = context.ensure_object(Desk)
    context.exit(run(desk.config_path, desk.environ, port))


@click.command("reload", cls=Command, example="broker reload")
@as_json
@click.pass_obj
def reload(desk: Desk, as_json: bool) -> None:
    """Take over the changed configuration file.

    Providers, callers, alerts, log and renewed certificates; what else changed needs a restart and is named.
    Fails with the problems of a broken file, and then everything stays as it was.
    """
    result = desk.broker.ask("POST", "/reload")
    problems, restart = result["problems"], result["needs_restart"]
    if as_json:
        show_json(result)
    if problems:
        raise Failed(f"Nothing was reloaded from {result['config']}: {'; '.join(problems)}")
    if not as_json:
        click.echo(f"Reloaded {plain(result['config'])}.")
        for key in restart:
            click.echo(f"{plain(key)} has changed and needs a restart: systemctl restart token-broker")


@click.command("sandbox", cls=Command, example="broker sandbox --listen 127.0.0.1:8089")
@click.option(
    "--listen", type=words.address, default="127.0.0.1:8089", show_default=True, help="Where to answer."
)
@click.option(
    "--database",
    type=click.Path(dir_okay=False, path_type=Path),
    default=Path("var/sandbox.db"),
    show_default=True,
    help="Where it keeps what it issued.",
)
@click.option(
    "--broker-url",
    default="http://127.0.0.1:8081",
    show_default=True,
    metavar="URL",
    help="The public_url of the broker that it sends people back to.",
)
@as_json
def sandbox(listen: TcpListen, database: Path, broker_url: str, as_json: bool) -> None:
    """Play Kit and Kustomer, for trying things out.

    It plays the company's own app as well, until SIGTERM or Ctrl-C; nothing in it is real.
    """
    from broker.sandbox import Sandbox, run_alone  # noqa: PLC0415 - a server of its own

    def ready(running: Sandbox) -> None:
        where = f"{running.base_url}/"
        say(f"Kit and Kustomer are played at {where} (Ctrl-C stops it).", {"sandbox": where}, as_json=as_json)

    try:
        asyncio.run(run_alone(listen, database, broker_url, ready=ready))
    except OSError as exc:
        raise Failed(_why_not(exc, listen)) from None


def _why_not(error: OSError, listen: TcpListen) -> str:
    """Why the sandbox does not start; only an error about its file names one."""
    reason = error.strerror or str(error)
    if error.filename:
        return f"The sandbox cannot open {error.filename}: {reason}; choose another with --database."
    return f"The sandbox cannot listen on {listen}: {reason}; choose another with --listen."
