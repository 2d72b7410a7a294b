"""Migrates the schema with numbered files that never change once released, and moves a store to PostgreSQL."""

import re
from collections.abc import Mapping, Sequence
from functools import partial
from importlib.resources import files

import structlog

from broker.errors import StartRefused
from broker.store.database import Database, Transaction, execute, execute_all, insert_sql
from broker.store.incarnation import FILES
from broker.store.incarnation import META as INCARNATION
from broker.store.keys import KeyStore

log = structlog.get_logger()


def migrations() -> dict[int, str]:
    """Return the SQL of every migration by its number."""
    folder = files("broker.store") / "migrations"
    found = {int(file.name[:4]): file.read_text() for file in folder.iterdir() if file.name.endswith(".sql")}
    return dict(sorted(found.items()))


async def migrate(database: Database, known: Mapping[int, str] | None = None) -> int:
    """Run the missing migrations and return the number of the schema.

    Raises StartRefused if a newer program has written the store. Brokers on a shared database are upgraded one by one,
    so there a newer schema is accepted: migrations only add what an older program can ignore. `known` is for tests: the
    migrations of an older program.
    """
    await execute(database, "CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY)")
    [(version,)] = await database.read("SELECT COALESCE(MAX(version), 0) FROM schema_version")
    known = known or migrations()
    if not isinstance(version, int):
        raise StartRefused(
            "the store's schema has no number: it is damaged; restore a backup: broker restore BACKUP"
        )
    if version > max(known):
        if database.dialect.shared:
            log.warning("schema.newer", schema=version, known=max(known))
            return version
        raise StartRefused(
            f"the store has schema {version}, this program knows {max(known)}: it was written by a newer"
            " token-broker; install that version again, or restore an older backup"
        )
    text = database.dialect.text
    missing = [(number, re.sub(r"\bTEXT\b", text, sql)) for number, sql in known.items() if number > version]
    # A new store has nothing to lose, and each transaction waits for the disk.
    for together in [missing] if version == 0 else [[one] for one in missing]:
        await database.write(partial(_apply, together))
    if 0 < version < max(known):
        log.info("store.migrated", was=version, schema=max(known))
    return max(known)


async def _apply(some: Sequence[tuple[int, str]], transaction: Transaction) -> None:
    for number, sql in some:
        for statement in re.sub(r"--.*", "", sql).split(";"):
            if statement.strip():
                await transaction.execute(statement)
        await transaction.execute("INSERT INTO schema_version (version) VALUES ($1)", number)


MOVED_TO = "moved_to"
UNFINISHED = "unfinished_copy"
STAYS = (INCARNATION, FILES, MOVED_TO, UNFINISHED)
"""Metadata that is only true of the store itself, and is not copied."""
SEEDED = ("event_ids",)
"""Tables into which the migrations insert a row."""
AT_ONCE = 500
COLUMNS = "SELECT name FROM pragma_table_info($1) ORDER BY cid"


async def refuse_moved(keys: KeyStore) -> None:
    """Raise StartRefused if the store was moved to another database, or not completely copied into this one."""
    if await keys.meta(MOVED_TO):
        raise StartRefused(
            "this store was moved to PostgreSQL, which renews its accounts now; name that database in store.url"
        )
    if await keys.meta(UNFINISHED):
        raise StartRefused(
            "the database holds half a store: a copy was not finished; create the database again,"
            " then type `broker migrate --copy-from` again"
        )


async def move(source: Database, target: Database, *, where: str) -> Mapping[str, int]:
    """Copy all rows and mark the source as moved to `where`; return the number of rows by table.

    Until the last step no broker starts on the target; from the step before it on, none starts on the source. After an
    interruption before that step the target has to be created again; after it, the same call finishes the move. Raises
    StartRefused.
    """
    old, new = KeyStore(source), KeyStore(target)
    moved = await old.meta(MOVED_TO)
    if moved is None:
        await refuse_moved(new)
        for table, count in (await _counts(target)).items():
            if count and table not in SEEDED:
                raise StartRefused(
                    f"the database is not empty: {count} rows in {table}; a store is copied into a new one"
                )
        await new.set_meta(UNFINISHED, "yes")
        for table in tables():
            names = ", ".join([str(name) for (name,) in await source.read(COLUMNS, table)])
            page = f"SELECT rowid, {names} FROM {table} WHERE rowid > $1 ORDER BY rowid LIMIT {AT_ONCE}"
            if table in SEEDED:
                await execute(target, f"DELETE FROM {table}")
            after = 0
            while rows := await source.read(page, after):
                after = rows[-1][0]
                wanted = [values for _, *values in rows if table != "meta" or values[0] not in STAYS]
                await execute_all(target, insert_sql(table, names), wanted)
    elif moved != where or not await new.meta(UNFINISHED):
        raise StartRefused("the source was moved already")
    counts, copied = await _counts(source), await _counts(target)
    for table, count in counts.items():
        if copied[table] != count:
            raise StartRefused(
                f"{table} has {count} rows in the source and {copied[table]} in the copy; nothing was moved"
            )
    await old.set_meta(MOVED_TO, where)
    await execute(target, "DELETE FROM meta WHERE key = $1", UNFINISHED)
    return counts


def tables() -> tuple[str, ...]:
    """Return the names of all tables that the migrations create."""
    return tuple(name for sql in migrations().values() for name in re.findall(r"CREATE TABLE (\w+)", sql))


async def _counts(database: Database) -> Mapping[str, int]:
    stays = ", ".join(f"'{key}'" for key in STAYS)
    found = {}
    for table in tables():
        where = f" WHERE key NOT IN ({stays})" if table == "meta" else ""
        [(found[table],)] = await database.read(f"SELECT COUNT(*) FROM {table}{where}")
    return found
