"""`broker check`: what is right, what is doubtful, what is wrong, and the next step for each."""

import asyncio
from typing import Any

import click

from broker.cli.command import Command, as_json
from broker.cli.desk import Desk
from broker.cli.failed import Failed, NoBroker
from broker.cli.tables import Cell, Column, show_json, show_table
from broker.cli.text import counted
from broker.config import ConfigError, load

COLUMNS = (Column("WHAT", breaks=True), Column("LEVEL"), Column("DETAIL AND NEXT STEP", breaks=True))


@click.command("check", cls=Command, example="broker check")
@as_json
@click.pass_obj
def check(desk: Desk, as_json: bool) -> None:
    """Look everything over and say what to mend.

    Configuration, file modes, keys, store, clock, providers. Asks the running broker; where none
    runs, opens everything itself. Fails on any problem.
    """
    checks = _checks(desk)
    if as_json:
        show_json({"checks": checks})
    else:
        show_table(COLUMNS, ((one["what"], Cell(one["level"]), _advice(one)) for one in checks))
    problems = sum(one["level"] == "problem" for one in checks)
    if problems:
        raise Failed(f"{counted(problems, 'problem')} found.")


def _checks(desk: Desk) -> list[dict[str, Any]]:
    try:
        found: list[dict[str, Any]] = desk.broker.ask("GET", "/check")["checks"]
    except NoBroker:
        return _checks_offline(desk)
    return found


def _checks_offline(desk: Desk) -> list[dict[str, Any]]:
    # Only where no broker runs does a command open what a broker opens.
    from broker.app import check_offline  # noqa: PLC0415 - all of the server, which no other command needs
    from broker.observe import logs  # noqa: PLC0415 - the same

    try:
        settings = load(desk.config_path, environ=desk.environ)
    except ConfigError as exc:
        return [_configuration_problem(line) for line in exc.problems]
    logs.configure(settings.log)
    return [one.json() for one in asyncio.run(check_offline(settings))]


def _configuration_problem(line: str) -> dict[str, Any]:
    return {"what": "configuration", "level": "problem", "detail": line, "next": None}


def _advice(one: dict[str, Any]) -> str:
    return f"{one['detail']} → {one['next']}" if one["next"] else str(one["detail"])
