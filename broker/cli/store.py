"""`broker backup`, `restore`, `adopt`, `migrate` and `keys`: the store as a whole, and the keys that encrypt it."""

import re
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from pathlib import Path

import click

from broker.cli import arguments
from broker.cli.admin_socket import NoBroker, Object
from broker.cli.command import Command, CommandContext, Group, confirm, yes
from broker.cli.output import SHOWN, WHOLE, Cell, Failed, counted, plain, progress
from broker.config import store_of, store_path_of
from broker.files import new_file
from broker.times import both, relative, span

DATED, IS_DATED = "broker-%Y-%m-%dT%H%M%SZ.db", re.compile(r"broker-\d{4}-\d\d-\d\dT\d{6}Z\.db")
KEY_COLUMNS = dict.fromkeys(("KEY", "FOR", "STATE", "RECORDS", "MADE", "MASTER"), WHOLE)


@click.command("backup", cls=Command, example="broker backup /backup/broker-2026-11-22.db")
@click.argument("dest", type=arguments.path)
@click.option(
    "--keep",
    type=click.IntRange(min=1),
    metavar="N",
    help="Write a file named by the time into the folder DEST, and keep only the newest N of them.",
)
def backup(context: CommandContext, dest: Path, keep: int | None) -> None:
    """Copy the store of the running broker to the new file DEST.

    The file has mode 0600, and its secrets are encrypted with the master key: store that key elsewhere. A refresh
    token that the provider replaces is outdated at the next renewal; names, callers and keys stay useful.
    """
    folder = dest
    if keep is not None:
        dest = folder / datetime.fromtimestamp(context.clock.now(), UTC).strftime(DATED)
    from broker.store.backup import NotAStore, examine  # noqa: PLC0415 - the store, which few commands need

    if dest.exists() or dest.is_symlink():
        raise Failed(f"{dest} exists, and a backup never overwrites. Name another file.")
    try:
        with new_file(dest) as (unfinished, file):
            with progress("Copying") as advance:
                for block, total in context.broker.download("POST", "/backup"):
                    file.write(block)
                    advance(len(block), total)
            file.flush()
            found = examine(unfinished)
    except NoBroker:
        raise Failed("No broker runs. Start it and repeat the command, or copy its folder.") from None
    except (OSError, NotAStore) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise Failed(f"The backup cannot be written to {dest}: {why}.") from None
    told = f"{dest} holds {counted(found.accounts, 'account')}."
    if keep is not None:
        old = sorted(path for path in folder.iterdir() if IS_DATED.fullmatch(path.name))[:-keep]
        for path in old:
            path.unlink()
        told += f" Deleted {counted(len(old), 'older backup')}." if old else ""
    context.say(told, {"file": str(dest), "accounts": found.accounts})


@click.command("restore", cls=Command, example="broker restore /backup/broker-2026-11-22.db")
@click.argument("src", type=arguments.path)
@click.option(
    "--yes", "-y", is_flag=True, help="Replace a store that holds accounts; it is kept next to the new one."
)
@click.option("--force", is_flag=True, hidden=True, help="The former name of --yes.")
def restore(context: CommandContext, src: Path, *, yes: bool, force: bool) -> None:
    """Replace the store by the backup SRC; no broker may run.

    Under systemd stop both units, because the socket alone starts the broker again:
    systemctl stop token-broker.socket token-broker.service

    The restored store issues valid tokens and renews nothing until `broker adopt`.
    """
    from broker.errors import StartRefused  # noqa: PLC0415 - as below
    from broker.store.backup import NotAStore  # noqa: PLC0415 - the store, which few commands need
    from broker.store.backup import restore as put_in_place  # noqa: PLC0415 - the same

    now, store = context.clock.now(), store_path_of(context.config_path, context.environ)
    try:
        found, kept = put_in_place(src, store, force=yes or force, at=now)
    except (NotAStore, StartRefused) as exc:
        raise Failed(f"Nothing was restored: {exc}") from None
    except OSError as exc:
        raise Failed(f"Nothing was restored: {exc.filename or src}: {exc.strerror}") from None
    age = f", made {span(now - found.made_at)} ago" if found.made_at is not None else ""
    told = [f"Restored {counted(found.accounts, 'account')}{age}, into {store}."]
    if kept:
        told.append(f"The former store is kept as {kept}.")
    start = " with: systemctl start token-broker.socket token-broker.service" if context.service else ""
    told.append(f"It needs the master key {' and '.join(found.masters)}.")
    told.append(f"Start the broker{start}. It issues valid tokens and renews nothing until `broker adopt`.")
    value = {
        "store": str(store),
        "accounts": found.accounts,
        "kept": kept and str(kept),
        "masters": list(found.masters),
    }
    context.say("\n".join(told), value)


@click.command("adopt", cls=Command, example="broker adopt")
def adopt(context: CommandContext) -> None:
    """Start renewing the accounts of a copied store.

    Use it only if no other broker runs on the original. A store that was copied or restored from a backup issues valid
    tokens but renews nothing until then, because two brokers that renew one grant can end it.
    """
    answer = context.broker.ask("POST", "/adopt")
    names, told = answer.get("accounts"), ["Adopted: the accounts of this store are renewed from now on."]
    if not answer["adopted"]:
        told = ["There is nothing to adopt: this store is not a copy, and its accounts are renewed already."]
    elif copied_at := answer.get("copied_at"):
        told.append(f"The backup was made {both(copied_at, context.clock.now())}.")
    if answer["adopted"] and names:
        told.append(f"{counted(len(names), 'account')} may need re-authorization:")
        told += [f"  {plain(name)}" for name in names]
    context.say("\n".join(told), answer)


@click.command("migrate", cls=Command, example="broker migrate")
@click.option("--copy-from", metavar="sqlite:PATH", help="Move this SQLite store to PostgreSQL.")
def migrate(context: CommandContext, copy_from: str | None) -> None:
    """Migrate the store to the current schema.

    `broker serve` does the same when it starts. With --copy-from it copies an SQLite store into the empty PostgreSQL
    database that store.url names; no broker may run on the SQLite store then, or ever again. Under systemd stop both
    units first:
    systemctl stop token-broker.socket token-broker.service
    """
    from broker.app.offline import copy_store, migrate_store  # noqa: PLC0415 - the store, which few commands need

    store = store_of(context.config_path, context.environ)
    if copy_from is not None:
        kind, _, path = copy_from.partition(":")
        if kind != "sqlite" or not path:
            raise click.BadParameter("expected sqlite:PATH", param_hint="--copy-from")
        source = context.config_path.absolute().parent / path
        counts = copy_store(source, store, failed=Failed)
        told = [f"{table:22}{count:>9}" for table, count in counts.items()]
        told.append(f"Everything is in PostgreSQL now. No broker can start on {source} any more.")
        told.append("Every broker on the database needs the same master key.")
        context.say("\n".join(told), {"source": str(source), "rows": counts})
        return
    what = "The database" if store.postgres else str(store.path)
    schema = migrate_store(store, failed=Failed)
    context.say(f"{what} has schema {schema}.", {"schema": schema})


@click.group("keys", cls=Group, former={"new": "add", "drop": "remove"})
def keys() -> None:
    """Manage the data keys that encrypt the secrets in the store.

    They are kept in the store, encrypted with the master key. If no broker runs, these commands open the store
    themselves.
    """


@contextmanager
def _keys(context: CommandContext) -> Iterator[Callable[..., Object]]:
    """Yield a function that asks the running broker, or the store itself under its lock if none runs."""
    broker = context.broker
    try:
        broker.ask("GET", "/version")
    except NoBroker:
        # Only where no broker runs does a command open what a broker opens.
        from broker.app.offline import open_keys  # noqa: PLC0415 - all of the server

        with (
            context.as_service() as environ,
            open_keys(context.config_path, environ, failed=Failed) as opened,
        ):
            yield opened
    else:
        yield broker.ask


@keys.command("list", example="broker keys list")
def list_keys(context: CommandContext) -> None:
    """List the data keys and the number of records that each encrypts."""
    with _keys(context) as ask:
        answer = ask("GET", "/keys")
    context.show_list(answer, "keys", KEY_COLUMNS, _key_row)


def _key_row(key: Object, now: float) -> tuple[object, ...]:
    retired = key["retired_at"] and f"retired {relative(key['retired_at'], now)}"
    records = "-" if key["purpose"] == "index" else key["records"]
    made = relative(key["created_at"], now)
    return key["kid"], key["purpose"], Cell(key["state"], [retired]), records, made, key["master"]


@keys.command("add", example="broker keys add")
def add_key(context: CommandContext) -> None:
    """Make a new data key, which encrypts everything from now on.

    What is encrypted already can still be read. `broker keys rewrap` encrypts it anew.
    """
    with _keys(context) as ask:
        key = ask("POST", "/keys")
    context.say(f"{plain(key['kid'])} is the active key. Next: broker keys rewrap", key)


@keys.command("rewrap", example="broker keys rewrap")
def rewrap_keys(context: CommandContext) -> None:
    """Encrypt everything with the active data key.

    It delays no request, and may be interrupted: the next run continues.
    """
    done, cursor, unreadable = 0, None, list[str]()
    with _keys(context) as ask:
        total = sum(key["records"] for key in ask("GET", "/keys")["keys"])
        with progress("Encrypting anew", total) as advance:
            while True:
                step = ask("POST", "/keys/rewrap", body={"cursor": cursor} if cursor else {})
                done += step["resealed"]
                unreadable += [plain(where) for where in step["unreadable"]]
                advance(step["looked_at"], None)
                cursor = step["cursor"]
                if cursor is None:
                    break
    context.say(f"{counted(done, 'record')} encrypted anew.", {"resealed": done, "unreadable": unreadable})
    if unreadable:
        raise Failed(
            f"{counted(len(unreadable), 'record')} cannot be decrypted: {', '.join(unreadable[:SHOWN])}."
            " See the log, and connect these accounts again or purge them."
        )


@keys.command("remove", example="broker keys remove 00112233445566ff")
@click.argument("kid", type=arguments.kid)
@yes
def remove_key(context: CommandContext, kid: str, yes: bool) -> None:
    """Retire the data key KID, which encrypts nothing any more.

    It is kept, encrypted, for 400 days, in case something turns up that needs it.
    """
    confirm(f"Retire the key {kid}?", yes=yes)
    with _keys(context) as ask:
        key = ask("DELETE", f"/keys/{kid}")
    context.say(f"Key {kid} is retired.", key)
