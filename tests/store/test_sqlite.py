"""What SQLite itself must do: durable settings, modes, one writer, one instance, full disks, indexes."""

import asyncio
import sqlite3
import stat
import threading
from pathlib import Path

import pytest

from broker.errors import StartRefused, StorageUnavailable
from broker.store.database import Transaction
from broker.store.migrate import migrate, migrations
from broker.store.renewals import DUE, NEXT_DUE
from broker.store.sqlite import NETWORK_FILE_SYSTEMS, SqliteDatabase
from tests.store.rows import plain_stores


async def opened(path: Path) -> SqliteDatabase:
    database = await SqliteDatabase.open(path)
    await migrate(database)
    return database


async def test_durable_settings_hold_on_the_writing_connection(tmp_path: Path) -> None:
    """WAL and FULL, read back from the connection that writes."""
    database = await opened(tmp_path / "s" / "broker.db")

    async def ask(transaction: Transaction) -> list[object]:
        names = ("journal_mode", "synchronous", "secure_delete")
        return [(await transaction.fetch(f"PRAGMA {name}"))[0][0] for name in names]

    found = await database.write(ask)
    await database.close()

    assert ["wal", 2, 1] == found


async def test_reading_connection_cannot_write(tmp_path: Path) -> None:
    """Exactly one connection in the system writes."""
    database = await opened(tmp_path / "s" / "broker.db")

    with pytest.raises(StorageUnavailable):
        await database.read("INSERT INTO meta (key, value) VALUES ('a', 'b')")
    await database.close()


async def test_everything_is_for_its_owner_alone(tmp_path: Path) -> None:
    """Folder 0700, files 0600, whatever the umask."""
    database = await opened(tmp_path / "s" / "broker.db")
    modes = {stat.S_IMODE(path.stat().st_mode) for path in (tmp_path / "s").iterdir()}
    await database.close()

    assert 0o700 == stat.S_IMODE((tmp_path / "s").stat().st_mode)
    assert {0o600} == modes


@pytest.mark.parametrize(
    ("name", "mode", "hint"), [("s", 0o750, "chmod 700"), ("s/broker.db", 0o640, "chmod 600")]
)
async def test_open_modes_are_refused(tmp_path: Path, name: str, mode: int, hint: str) -> None:
    """With the command that mends it."""
    await (await opened(tmp_path / "s" / "broker.db")).close()
    (tmp_path / name).chmod(mode)

    with pytest.raises(StartRefused, match=hint):
        await SqliteDatabase.open(tmp_path / "s" / "broker.db")


@pytest.mark.parametrize(
    "name",
    ["a#b.db", "a?mode=memory", "a?vfs=none&x", "100%25", "p%61th", "%00", "a b;c'd\"e", "ü", ":memory:"],
)
async def test_store_lies_where_its_path_says(tmp_path: Path, name: str) -> None:
    """Whatever an address would make of the path; and it is found there again."""
    database = await opened(tmp_path / "s" / name)
    await database.write(lambda one: one.execute("INSERT INTO meta (key, value) VALUES ('a', 'b')"))
    await database.close()
    database = await opened(tmp_path / "s" / name)
    found = await database.read("SELECT value FROM meta WHERE key = 'a'")
    await database.close()

    assert [("b",)] == found
    assert stat.S_IMODE((tmp_path / "s" / name).stat().st_mode) == 0o600
    assert {name} == {path.name.removesuffix(".lock") for path in (tmp_path / "s").iterdir()}


async def test_second_instance_is_refused(tmp_path: Path) -> None:
    """And after the first has gone the store opens again."""
    first = await opened(tmp_path / "s" / "broker.db")

    with pytest.raises(StartRefused, match="another broker runs"):
        await SqliteDatabase.open(tmp_path / "s" / "broker.db")
    await first.close()
    await (await opened(tmp_path / "s" / "broker.db")).close()


async def test_file_that_is_no_database_is_refused(tmp_path: Path) -> None:
    """In a sentence."""
    (tmp_path / "s").mkdir(mode=0o700)
    (tmp_path / "s" / "broker.db").write_bytes(
        b"not a database at all, but long enough to be read as one" * 40
    )
    (tmp_path / "s" / "broker.db").chmod(0o600)

    with pytest.raises(StartRefused, match="cannot be opened"):
        await SqliteDatabase.open(tmp_path / "s" / "broker.db")


async def test_migrations_run_once_and_a_newer_schema_is_refused(tmp_path: Path) -> None:
    """Numbers only go up; an older program keeps its hands off."""
    database = await opened(tmp_path / "s" / "broker.db")
    again = await migrate(database)
    await database.write(lambda transaction: transaction.execute("INSERT INTO schema_version VALUES (9999)"))

    with pytest.raises(StartRefused, match=r"9999.*newer"):
        await migrate(database)
    await database.close()

    assert max(migrations()) == again
    assert list(range(1, len(migrations()) + 1)) == list(migrations())


@pytest.mark.parametrize("sql", [DUE, NEXT_DUE])
async def test_due_accounts_are_found_by_index(tmp_path: Path, sql: str) -> None:
    """Never by a scan of all accounts."""
    await (await opened(tmp_path / "s" / "broker.db")).close()
    with sqlite3.connect(tmp_path / "s" / "broker.db") as connection:
        plan = str(connection.execute(f"EXPLAIN QUERY PLAN {sql}", {"1": 1, "2": 1}).fetchall())
    connection.close()

    assert "accounts_due" in plan
    assert "SCAN accounts'" not in plan


async def test_sql_parameters_are_never_logged(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """aiosqlite logs them at DEBUG; our configuration keeps its logger quiet."""
    from broker.config.settings import LogSettings  # noqa: PLC0415 - configures global state, so only here
    from broker.observe import logs  # noqa: PLC0415 - as above

    logs.configure(LogSettings("json", "debug"))
    database = await opened(tmp_path / "s" / "broker.db")
    await plain_stores(database).keys.set_meta("canary-71", "canary-72")
    await database.close()

    assert "canary-7" not in caplog.text


async def test_closed_store_answers_at_once(tmp_path: Path) -> None:
    """Nobody waits for a writer that has gone; what was queued before the end is stored."""
    database = await opened(tmp_path / "s" / "broker.db")
    stores = plain_stores(database)
    writing = [asyncio.create_task(stores.keys.set_meta(f"k{number}", "v")) for number in range(150)]
    await asyncio.sleep(0)

    await database.close()

    async with asyncio.timeout(60):
        assert [None] * 150 == await asyncio.gather(*writing)
        with pytest.raises(StorageUnavailable):
            await stores.keys.set_meta("late", "v")
        with pytest.raises(StorageUnavailable):
            await stores.keys.meta("k1")
    again = await opened(tmp_path / "s" / "broker.db")
    assert [(150,)] == [tuple(row) for row in await again.read("SELECT COUNT(*) FROM meta")]
    await again.close()


async def test_store_whose_writer_was_cancelled_answers_at_once(tmp_path: Path) -> None:
    """So a loop that breaks down, and cancels every task, ends in whatever order it does."""
    database = await opened(tmp_path / "s" / "broker.db")
    stores = plain_stores(database)
    writing = [asyncio.create_task(stores.keys.set_meta(f"k{number}", "v")) for number in range(300)]
    await asyncio.sleep(0)

    for task in asyncio.all_tasks() - {asyncio.current_task(), *writing}:
        task.cancel()

    async with asyncio.timeout(60):
        ended = await asyncio.gather(*writing, return_exceptions=True)
        with pytest.raises(StorageUnavailable):
            await stores.keys.set_meta("late", "v")
        await database.close()
    assert all(isinstance(one, StorageUnavailable) for one in ended if one is not None)


async def test_writes_at_once_share_a_commit(tmp_path: Path) -> None:
    """One fdatasync for many, and each writer hears only when its own work is durable."""
    observed: list[bool] = []
    database = await SqliteDatabase.open(
        tmp_path / "s" / "broker.db", observe=lambda succeeded, _: observed.append(succeeded)
    )
    await migrate(database)
    observed.clear()

    await asyncio.gather(*[plain_stores(database).keys.set_meta(f"k{number}", "v") for number in range(128)])
    await database.close()

    assert len(observed) <= 4
    assert all(observed)


async def test_mistake_reaches_its_own_caller_alone(tmp_path: Path) -> None:
    """Of writes that share a commit, the others are stored, each once, and nothing of the wrong one is."""
    database = await opened(tmp_path / "s" / "broker.db")
    add = "INSERT INTO meta (key, value) VALUES ($1, $2)"

    async def twice(transaction: Transaction) -> None:
        await transaction.execute(add, "wrong", "v")
        await transaction.execute(add, "wrong", "v")

    async def once(transaction: Transaction, key: str) -> int:
        return await transaction.execute(add, key, "v")

    ended = await asyncio.gather(
        database.write(lambda transaction: once(transaction, "before")),
        database.write(twice),
        database.write(lambda transaction: once(transaction, "after")),
        return_exceptions=True,
    )
    stored = [key for (key,) in await database.read("SELECT key FROM meta ORDER BY key")]
    await database.close()

    assert [1, sqlite3.IntegrityError, 1] == [one if isinstance(one, int) else type(one) for one in ended]
    assert ["after", "before"] == stored


async def test_transaction_is_one_job_of_one_thread(tmp_path: Path) -> None:
    """The loop's thread does nothing of it, and all transactions have the same one."""
    database = await opened(tmp_path / "s" / "broker.db")

    async def thread(transaction: Transaction) -> set[int]:
        seen = {threading.get_ident()}
        await transaction.execute("UPDATE meta SET value = 'v'")
        return seen | {threading.get_ident()}

    first, second = await database.write(thread), await database.write(thread)
    await database.close()

    assert 1 == len(first)
    assert first == second
    assert {threading.get_ident()} != first


async def test_work_that_waits_for_anything_else_is_a_mistake(tmp_path: Path) -> None:
    """It says so at once, its changes are undone, and nobody else's are."""
    database = await opened(tmp_path / "s" / "broker.db")
    keys = plain_stores(database).keys

    async def idle(transaction: Transaction) -> None:
        await transaction.execute("INSERT INTO meta (key, value) VALUES ('half', 'v')")
        await asyncio.sleep(0)

    waited, stored = await asyncio.gather(
        database.write(idle), keys.set_meta("other", "v"), return_exceptions=True
    )
    found = [await keys.meta("half"), await keys.meta("other")]
    await database.close()

    assert "waits for something besides its transaction" in str(waited)
    assert stored is None
    assert [None, "v"] == found


async def test_loop_goes_on_while_a_transaction_takes_its_time(tmp_path: Path) -> None:
    """A write that waits for the disk, or for anything, holds up nobody who only reads."""
    database = await opened(tmp_path / "s" / "broker.db")
    keys, go_on = plain_stores(database).keys, threading.Event()
    await keys.set_meta("old", "v")

    async def slow(transaction: Transaction) -> bool:
        await transaction.execute("UPDATE meta SET value = 'new'")
        return go_on.wait(10)

    writing = asyncio.create_task(database.write(slow))
    await asyncio.sleep(0)
    meanwhile = await keys.meta("old")
    go_on.set()
    waited = await writing
    afterwards = await keys.meta("old")
    await database.close()

    assert (True, "v", "new") == (waited, meanwhile, afterwards)


def test_network_file_systems_are_refused_by_name_alone() -> None:
    """Local ones of any kind are not on the list."""
    local = {"ext4", "xfs", "btrfs", "zfs", "tmpfs", "overlay", "f2fs", "fuseblk"}

    assert {"nfs", "nfs4", "cifs", "smb3", "9p", "fuse.sshfs"} == NETWORK_FILE_SYSTEMS
    assert not local & NETWORK_FILE_SYSTEMS


async def test_store_says_whose_file_it_is(tmp_path: Path) -> None:
    """`file` and a person with a hex editor can tell: the application id spells TOKB."""
    await (await opened(tmp_path / "s" / "broker.db")).close()

    assert b"TOKB" == (tmp_path / "s" / "broker.db").read_bytes()[68:72]
