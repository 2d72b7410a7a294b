"""`broker keys`: the data keys that everything is sealed with; with a running broker, or alone."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol

import click

from broker.cli import words
from broker.cli.command import Group, as_json, confirm, say, yes
from broker.cli.desk import Desk
from broker.cli.failed import Failed, NoBroker
from broker.cli.progress import progress
from broker.cli.tables import Cell, Column, show_json, show_table
from broker.cli.text import counted, plain
from broker.times import relative

COLUMNS = (
    Column("KEY"),
    Column("FOR"),
    Column("STATE"),
    Column("RECORDS"),
    Column("MADE"),
    Column("MASTER"),
)
SHOWN = 10

Object = dict[str, Any]


class KeyHolder(Protocol):
    """Whoever has the keys: the running broker, or the store opened by the command itself."""

    def ask(self, method: str, target: str, *, body: Object | None = None) -> Object: ...


@click.group("keys", cls=Group, former={"new": "add", "drop": "remove"})
def keys() -> None:
    """The data keys that everything in the store is sealed with.

    They lie in the store, wrapped by the master key. Where no broker runs the store is opened for the while.
    """


@keys.command("list", example="broker keys list")
@as_json
@click.pass_obj
def list_keys(desk: Desk, as_json: bool) -> None:
    """List the keys and how much is sealed with each."""
    with _holder(desk) as holder:
        answer = holder.ask("GET", "/keys")
    if as_json:
        show_json(answer)
        return
    now = desk.clock.now()
    show_table(COLUMNS, (_row(key, now) for key in answer["keys"]))


@keys.command("add", example="broker keys add")
@as_json
@click.pass_obj
def new_key(desk: Desk, as_json: bool) -> None:
    """Make a new key; everything is sealed with it from now on.

    What is sealed already still opens. `broker keys rewrap` seals it anew.
    """
    with _holder(desk) as holder:
        key = holder.ask("POST", "/keys")
    say(f"{plain(key['kid'])} is the active key. Next: broker keys rewrap", key, as_json=as_json)


@keys.command("rewrap", example="broker keys rewrap")
@as_json
@click.pass_obj
def rewrap(desk: Desk, as_json: bool) -> None:
    """Seal everything with the active key.

    Nobody waits for it, and it may be broken off: the next one goes on.
    """
    with _holder(desk) as holder:
        total = sum(key["records"] for key in holder.ask("GET", "/keys")["keys"])
        done, unreadable = _rewrap_all(holder, total)
    say(
        f"{counted(done, 'record')} sealed anew.",
        {"resealed": done, "unreadable": unreadable},
        as_json=as_json,
    )
    if unreadable:
        raise Failed(
            f"{counted(len(unreadable), 'record')} cannot be opened and stay as they are:"
            f" {', '.join(unreadable[:SHOWN])}; see the log, and connect or purge these accounts again."
        )


@keys.command("remove", example="broker keys remove 00112233445566ff")
@click.argument("kid", type=words.kid)
@yes
@as_json
@click.pass_obj
def drop(desk: Desk, kid: str, yes: bool, as_json: bool) -> None:
    """Retire the key KID, with which nothing is sealed any more.

    It is kept wrapped for 400 days, in case that something sealed with it turns up.
    """
    confirm(f"Retire the key {kid}?", yes=yes)
    with _holder(desk) as holder:
        key = holder.ask("DELETE", f"/keys/{kid}")
    say(f"{kid} is retired.", key, as_json=as_json)


def _rewrap_all(holder: KeyHolder, total: int) -> tuple[int, list[str]]:
    """Step by step; how many records were sealed anew, and where those lie that do not open."""
    done, cursor = 0, None
    unreadable: list[str] = []
    with progress("Sealing anew", total) as advance:
        while True:
            step = holder.ask("POST", "/keys/rewrap", body={"cursor": cursor} if cursor else {})
            done += step["resealed"]
            unreadable += [plain(where) for where in step["unreadable"]]
            advance(step["looked_at"], None)
            cursor = step["cursor"]
            if cursor is None:
                return done, unreadable


@contextmanager
def _holder(desk: Desk) -> Iterator[KeyHolder]:
    """The running broker; where none runs, the store itself, under its lock."""
    try:
        desk.broker.ask("GET", "/version")
    except NoBroker:
        # Only where no broker runs does a command open what a broker opens.
        from broker.app.alone import keys_alone  # noqa: PLC0415 - all of the server

        with (
            desk.as_service() as environ,
            keys_alone(desk.config_path, environ, failed=Failed) as alone,
        ):
            yield alone
    else:
        yield desk.broker


def _row(key: Object, now: float) -> tuple[object, ...]:
    retired = key["retired_at"] and f"retired {relative(key['retired_at'], now)}"
    return (
        key["kid"],
        key["purpose"],
        Cell(key["state"], [retired]),
        "-" if key["purpose"] == "index" else key["records"],
        relative(key["created_at"], now),
        key["master"],
    )
