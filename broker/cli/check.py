"""`broker check`: what is right, what is doubtful, what is wrong, and the next step for each."""

import asyncio
from typing import Any

import click

from broker.cli.command import Command, as_json
from broker.cli.desk import Desk
from broker.cli.failed import Failed, NoBroker, NotStarted
from broker.cli.tables import Cell, Column, show_json, show_table
from broker.cli.text import counted
from broker.config import ConfigError, load
from broker.systemd import ServiceState

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
    except NotStarted as exc:
        found = [_line("broker", "problem", exc.message, "journalctl -u token-broker -p warning")]
    except NoBroker as exc:
        found = [_line("broker", "warning", f"Not running. {exc.message}", None), *_checks_offline(desk)]
    state = desk.service
    return found if state is None else [*found, _service_check(state)]


def _service_check(state: ServiceState) -> dict[str, Any]:
    told = f"token-broker.service is {state.active}"
    if state.restarts and state.active != "inactive":
        told += f"; systemd has started it again {counted(state.restarts, 'time')}"
    if state.last_end and state.active != "active":
        told += f"; its last process {state.last_end}"
    if state.active.startswith("activ") and not state.restarts:
        return _line("systemd", "ok", told, None)
    if state.active == "inactive":
        return _line("systemd", "warning", told, "systemctl start token-broker.socket token-broker.service")
    mend = "journalctl -u token-broker -p warning; `systemctl reset-failed token-broker` sets the count to 0"
    return _line("systemd", "warning" if state.active == "active" else "problem", told, mend)


def _checks_offline(desk: Desk) -> list[dict[str, Any]]:
    # Only where no broker runs does a command open what a broker opens.
    from broker.app import check_offline  # noqa: PLC0415 - all of the server, which no other command needs
    from broker.observe import logs  # noqa: PLC0415 - the same

    try:
        with desk.as_service() as environ:
            settings = load(desk.config_path, environ=environ)
            logs.configure(settings.log)
            return [one.json() for one in asyncio.run(check_offline(settings))]
    except ConfigError as exc:
        return [_line("configuration", "problem", line, None) for line in exc.problems]


def _line(what: str, level: str, detail: str, advice: str | None) -> dict[str, Any]:
    return {"what": what, "level": level, "detail": detail, "next": advice}


def _advice(one: dict[str, Any]) -> str:
    return f"{one['detail']} → {one['next']}" if one["next"] else str(one["detail"])
