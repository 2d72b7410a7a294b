"""`broker backup`, `restore`, `adopt`, `migrate`: the store as a whole."""

from pathlib import Path

import click

from broker.cli.command import Command, as_json, say
from broker.cli.desk import Desk
from broker.cli.failed import Failed, NoBroker
from broker.cli.progress import progress
from broker.cli.tables import show_json
from broker.cli.text import counted, plain
from broker.config import ConfigError, store_of, store_path_of
from broker.files import new_file
from broker.times import both, span


@click.command("backup", cls=Command, example="broker backup /backup/broker-2026-11-22.db")
@click.argument("dest", type=click.Path(path_type=Path))
@as_json
@click.pass_obj
def backup(desk: Desk, dest: Path, as_json: bool) -> None:
    """Copy the store of the running broker to the new file DEST.

    The file is 0600 and holds everything sealed; keep the master key somewhere else. A backup of
    rotated tokens is old at the next renewal: it saves names, callers and keys.
    """
    from broker.store.backup import NotAStore, examine  # noqa: PLC0415 - the store, which few commands need

    if dest.exists() or dest.is_symlink():
        raise Failed(f"{dest} exists, and a backup never overwrites; name another file.")
    try:
        with new_file(dest) as (unfinished, file):
            with progress("Copying") as advance:
                desk.broker.save("POST", "/backup", file, told=advance)
            file.flush()
            found = examine(unfinished)
    except NoBroker:
        raise Failed("No broker runs; copy its folder then, or start it and type this again.") from None
    except (OSError, NotAStore) as exc:
        why = exc.strerror if isinstance(exc, OSError) else exc
        raise Failed(f"The backup cannot be written to {dest}: {why}.") from None
    say(
        f"{dest} holds {counted(found.accounts, 'account')}.",
        {"file": str(dest), "accounts": found.accounts},
        as_json=as_json,
    )


@click.command("restore", cls=Command, example="broker restore /backup/broker-2026-11-22.db")
@click.argument("src", type=click.Path(path_type=Path))
@click.option(
    "--yes", "-y", is_flag=True, help="Replace a store that holds accounts; it is kept beside the new one."
)
@click.option("--force", is_flag=True, hidden=True, help="What --yes was called.")
@as_json
@click.pass_obj
def restore(desk: Desk, src: Path, *, yes: bool, force: bool, as_json: bool) -> None:
    """Put the backup SRC in the place of the store; no broker may run.

    Under systemd stop both units, because the socket alone starts the broker again:
    systemctl stop token-broker.socket token-broker.service

    The restored store serves living tokens and renews nothing until `broker adopt`.
    """
    from broker.errors import StartRefused  # noqa: PLC0415 - as below
    from broker.store.backup import NotAStore  # noqa: PLC0415 - the store, which few commands need
    from broker.store.backup import restore as put_in_place  # noqa: PLC0415 - the same

    now = desk.clock.now()
    try:
        store = store_path_of(desk.config_path, desk.environ)
        restored = put_in_place(src, store, force=yes or force, at=now)
    except ConfigError as exc:
        raise Failed(exc.problems[0]) from None
    except (NotAStore, StartRefused) as exc:
        raise Failed(f"Nothing was restored: {exc}") from None
    except OSError as exc:
        raise Failed(f"Nothing was restored: {exc.filename or src}: {exc.strerror}") from None
    found = restored.found
    if as_json:
        kept = None if restored.kept is None else str(restored.kept)
        show_json(
            {"store": str(store), "accounts": found.accounts, "kept": kept, "masters": list(found.masters)}
        )
        return
    age = f", made {span(now - found.made_at)} ago" if found.made_at is not None else ""
    click.echo(f"Restored {counted(found.accounts, 'account')}{age}, into {store}.")
    if restored.kept is not None:
        click.echo(f"What was there is kept as {restored.kept}.")
    click.echo(f"It needs the master key {' and '.join(found.masters)}.")
    start = " with: systemctl start token-broker.socket token-broker.service" if desk.service else ""
    click.echo(f"Start the broker{start}. It serves living tokens and renews nothing until `broker adopt`.")


@click.command("adopt", cls=Command, example="broker adopt")
@as_json
@click.pass_obj
def adopt(desk: Desk, as_json: bool) -> None:
    """Renew from this store although it is a copy.

    Say so only if no other broker runs on the original. A store that was copied or restored
    from a backup serves living tokens but renews nothing until then: two brokers that renew the same
    grants would kill them.
    """
    answer = desk.broker.ask("POST", "/adopt")
    if as_json:
        show_json(answer)
        return
    if not answer["adopted"]:
        click.echo("There is nothing to adopt: this store is no copy, and is renewed from already.")
        return
    names = answer["accounts"]
    click.echo("Adopted: this store is renewed from now on.")
    if copied_at := answer.get("copied_at"):
        click.echo(f"The backup was made {both(copied_at, desk.clock.now())}.")
    if names:
        click.echo(f"{counted(len(names), 'account')} may need their person again:")
        for name in names:
            click.echo(f"  {plain(name)}")


@click.command("migrate", cls=Command, example="broker migrate")
@click.option("--copy-from", metavar="sqlite:PATH", help="Move this SQLite store to PostgreSQL.")
@as_json
@click.pass_obj
def migrate(desk: Desk, copy_from: str | None, as_json: bool) -> None:
    """Bring the store up to date.

    `broker serve` does the same at its start. With --copy-from an empty PostgreSQL database
    that store.url names takes over everything from a SQLite store, on which no broker may run
    then or ever after. Under systemd stop both units first:
    systemctl stop token-broker.socket token-broker.service
    """
    from broker.app.alone import copy_alone, migrate_alone  # noqa: PLC0415 - the store, which few commands need

    try:
        store = store_of(desk.config_path, desk.environ)
    except ConfigError as exc:
        raise Failed(exc.problems[0]) from None
    if copy_from is not None:
        kind, _, path = copy_from.partition(":")
        if kind != "sqlite" or not path:
            raise click.BadParameter("expected sqlite:PATH", param_hint="--copy-from")
        source = desk.config_path.absolute().parent / path
        counts = copy_alone(source, store, failed=Failed)
        if as_json:
            show_json({"source": str(source), "rows": counts})
            return
        for table, count in counts.items():
            click.echo(f"{table:22}{count:>9}")
        click.echo(f"All of it is in PostgreSQL now; {source} has moved and starts no broker any more.")
        click.echo("Every broker there needs the same master key.")
        return
    what = "The database" if store.postgres else str(store.path)
    schema = migrate_alone(store, failed=Failed)
    say(f"{what} has schema {schema}.", {"schema": schema}, as_json=as_json)
