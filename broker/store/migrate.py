"""Brings a store's schema up to date by numbered files, which are never edited once released."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files

import structlog

from broker.errors import StartRefused
from broker.store.database import Database, Transaction

log = structlog.get_logger()


def migrations() -> dict[int, str]:
    """The SQL of every migration by its number."""
    folder = files("broker.store") / "migrations"
    found = {int(file.name[:4]): file.read_text() for file in folder.iterdir() if file.name.endswith(".sql")}
    return dict(sorted(found.items()))


async def migrate(database: Database, known: Mapping[int, str] | None = None) -> int:
    """Run what is missing, each migration in a transaction of its own, for a new store all in one; the schema's number.

    Raises StartRefused where a newer program has been here. Brokers that share a database are replaced one by one:
    there a newer schema is taken, since migrations only ever add what an older program can do without. `known` is for
    tests: the migrations of an older program.
    """
    await database.write(_prepare)
    [(version,)] = await database.read("SELECT COALESCE(MAX(version), 0) FROM schema_version")
    known = known or migrations()
    if not isinstance(version, int):
        raise StartRefused(
            "the store's schema has no number: it is damaged; restore a backup: broker restore BACKUP"
        )
    if version > max(known) and database.dialect.shared:
        log.warning("schema.newer", schema=version, known=max(known))
        return int(version)
    if version > max(known):
        raise StartRefused(
            f"the store has schema {version}, this program knows {max(known)}: it was written by a newer"
            " token-broker; install that version again, or restore an older backup"
        )
    text = database.dialect.text
    missing = [(number, re.sub(r"\bTEXT\b", text, sql)) for number, sql in known.items() if number > version]
    # A new store has nothing to lose, and each transaction is a wait for the disk.
    for together in [missing] if version == 0 else [[one] for one in missing]:
        await database.write(partial(_apply, together))
    if 0 < version < max(known):
        log.info("store.migrated", was=version, schema=max(known))
    return max(known)


async def _prepare(transaction: Transaction) -> None:
    await transaction.execute("CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY)")


async def _apply(some: Sequence[tuple[int, str]], transaction: Transaction) -> None:
    for number, sql in some:
        for statement in re.sub(r"--.*", "", sql).split(";"):
            if statement.strip():
                await transaction.execute(statement)
        await transaction.execute("INSERT INTO schema_version (version) VALUES ($1)", number)
