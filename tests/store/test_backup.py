"""A backup is whole while the store is in use; a restored one never passes for the original."""

import asyncio
import os
import sqlite3
import stat
from collections.abc import AsyncIterator, Callable
from contextlib import closing
from pathlib import Path

import pytest

from broker.errors import StartRefused, StorageUnavailable
from broker.store import Stores
from broker.store.backup import UNFINISHED, NotAStore, SqliteBackup, examine, restore
from broker.store.migrate import migrate, migrations
from broker.store.sqlite import SqliteDatabase
from broker.store.writer import Writer
from tests.store.rows import connect, plain_stores
from tests.store.test_full_disk import _small as small_fixture

small = small_fixture
NOW = 1_800_000_000.0


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "store" / "broker.db"


@pytest.fixture
async def stores(path: Path) -> AsyncIterator[Stores]:
    database = await SqliteDatabase.open(path)
    await migrate(database)
    yield plain_stores(database)
    await database.close()


async def backup(stores: Stores, path: Path, to: Path) -> Path:
    async with SqliteBackup(path).copy(NOW) as made:
        made.rename(to)
        made.touch()
    return to


async def closed_with(path: Path, *names: str) -> None:
    """A store with these accounts that nobody has open."""
    database = await SqliteDatabase.open(path)
    await migrate(database)
    for name in names:
        await connect(plain_stores(database), name)
    await database.close()


def names_in(path: Path) -> list[str]:
    with closing(sqlite3.connect(path)) as connection:
        return [name for (name,) in connection.execute("SELECT name FROM accounts ORDER BY name")]


def query(path: Path, sql: str) -> object:
    with closing(sqlite3.connect(path)) as connection:
        [(value,)] = connection.execute(sql)
        return value


async def test_backup_of_a_store_in_use_is_whole(stores: Stores, path: Path, tmp_path: Path) -> None:
    """What was committed before it began is in it, one file of mode 0600, while writes go on."""
    await connect(stores, "before")
    writing = [asyncio.create_task(connect(stores, f"during-{number}")) for number in range(50)]

    made = await backup(stores, path, tmp_path / "b.db")
    await asyncio.gather(*writing)

    assert "before" in names_in(made)
    assert 0o600 == stat.S_IMODE(made.stat().st_mode)
    assert NOW == examine(made).made_at
    assert ("delete", max(migrations())) == (
        query(made, "PRAGMA journal_mode"),
        query(made, "PRAGMA user_version"),
    )
    assert 51 == len(names_in(path))


async def test_backup_leaves_nothing_beside_the_store(stores: Stores, path: Path) -> None:
    """Also of one that a crash broke off, and when whoever asked goes away in the middle; not an operator's copies."""
    (path.parent / "broker.db.backup-20261130").write_text("an operator's own copy")
    before = sorted(path.parent.iterdir())
    (path.parent / f"broker.db{UNFINISHED}dead").write_text("half")
    (path.parent / f"broker.db{UNFINISHED}folder").mkdir()

    with pytest.raises(asyncio.CancelledError):
        async with SqliteBackup(path).copy(NOW):
            raise asyncio.CancelledError

    (path.parent / f"broker.db{UNFINISHED}folder").rmdir()
    assert before == sorted(path.parent.iterdir())


async def test_backup_that_nobody_reads_holds_up_no_other(stores: Stores, path: Path) -> None:
    """And the other does not take it for one that a crash left."""
    await connect(stores, "acme")
    backups = SqliteBackup(path)

    async with backups.copy(NOW) as slow:
        async with backups.copy(NOW) as quick:
            found = examine(quick)
        assert (1, 1) == (found.accounts, examine(slow).accounts)


def test_backup_leaves_room_for_renewals(small: Path) -> None:
    """Refused where the copy would fill the disk, before anything is written."""
    (small / "broker.db").write_bytes(b"x" * 4096)

    async def copy() -> None:
        async with SqliteBackup(small / "broker.db").copy(NOW):
            pytest.fail("it was made")

    with pytest.raises(StorageUnavailable, match="needs 64 MiB of free space"):
        asyncio.run(copy())

    assert ["broker.db"] == [one.name for one in small.iterdir()]


async def test_backup_is_refused_while_one_connection_holds_the_store(path: Path) -> None:
    """A copy without what the log holds would be older than it says."""
    path.parent.mkdir()
    alone = Writer(path, alone=True)
    alone.commit([lambda one: one.execute("CREATE TABLE late (id TEXT)")])

    with pytest.raises(StorageUnavailable, match=r"broker\.db is locked by one connection"):
        async with SqliteBackup(path).copy(NOW):
            pytest.fail("it was made")
    alone.close()


async def test_backup_never_passes_for_its_store(stores: Stores, path: Path, tmp_path: Path) -> None:
    """Its incarnation is one that no sidecar lists, wherever it is put and whatever inode it gets there."""
    await stores.keys.set_meta("incarnation", "the-store:1")

    made = await backup(stores, path, tmp_path / "b.db")

    said = query(made, "SELECT value FROM meta WHERE key = 'incarnation'")
    assert str(said).startswith("backup-")
    assert "the-store:1" == await stores.keys.meta("incarnation")


async def test_restored_store_holds_what_the_backup_held(path: Path, tmp_path: Path) -> None:
    """In an empty place, with the modes of a store; and it opens."""
    await closed_with(tmp_path / "source" / "broker.db", "acme", "globex")

    found, kept = restore(tmp_path / "source" / "broker.db", path, force=False, at=NOW)
    database = await SqliteDatabase.open(path)
    await database.close()

    assert (2, None) == (found.accounts, kept)
    assert ["acme", "globex"] == names_in(path)
    assert 0o600 == stat.S_IMODE(path.stat().st_mode)
    assert str(query(path, "SELECT value FROM meta WHERE key = 'incarnation'")).startswith("restored-")


async def test_store_with_accounts_is_replaced_by_force_only(path: Path, tmp_path: Path) -> None:
    """And kept whole beside the new one, what lay in its log included."""
    await closed_with(tmp_path / "source" / "broker.db", "new")
    await closed_with(path, "old")
    with closing(sqlite3.connect(path)) as left:
        # As a crash leaves it: committed, and only in the write-ahead log.
        left.execute("PRAGMA wal_autocheckpoint = 0")
        left.execute("PRAGMA journal_mode = WAL")
        left.execute("UPDATE accounts SET label = 'in the log'")
        left.commit()
        log = (path.with_name("broker.db-wal")).read_bytes()
        whole = path.read_bytes()
    path.write_bytes(whole)
    path.with_name("broker.db-wal").write_bytes(log)

    with pytest.raises(NotAStore, match=r"holds 1 accounts; with --yes it is replaced, and kept"):
        restore(tmp_path / "source" / "broker.db", path, force=False, at=NOW)
    unchanged = names_in(path)
    path.write_bytes(whole)
    path.with_name("broker.db-wal").write_bytes(log)
    _, kept = restore(tmp_path / "source" / "broker.db", path, force=True, at=NOW)
    logs = [one for one in path.parent.iterdir() if one.name.endswith("-wal")]

    assert ["old"] == unchanged
    assert ["new"] == names_in(path)
    assert kept is not None
    assert kept.name.startswith("broker.db.replaced-20270115T080000Z-")
    assert "in the log" == query(kept, "SELECT label FROM accounts WHERE name = 'old'")
    # Folded in, not moved: a crash in between would have taken it from the store that was still in place.
    assert [] == logs


async def test_damaged_store_is_kept_as_it_is(path: Path, tmp_path: Path) -> None:
    """Its log too, and none of that meets the new store."""
    await closed_with(tmp_path / "source" / "broker.db", "new")
    path.parent.mkdir(mode=0o700)
    path.write_bytes(b"no store at all" * 100)
    path.with_name("broker.db-wal").write_bytes(b"its log")

    with pytest.raises(NotAStore, match="With --yes"):
        restore(tmp_path / "source" / "broker.db", path, force=False, at=NOW)
    _, kept = restore(tmp_path / "source" / "broker.db", path, force=True, at=NOW)

    assert kept is not None
    assert b"no store at all" * 100 == kept.read_bytes()
    assert b"its log" == kept.with_name(kept.name + "-wal").read_bytes()
    assert ["new"] == names_in(path)


async def test_no_store_is_restored_under_a_running_broker(
    stores: Stores, path: Path, tmp_path: Path
) -> None:
    """The lock says so, with and without force."""
    await connect(stores, "here")
    await closed_with(tmp_path / "source" / "broker.db", "new")

    with pytest.raises(StartRefused, match="another broker runs"):
        restore(tmp_path / "source" / "broker.db", path, force=True, at=NOW)

    assert ["here"] == names_in(path)


def _nothing(path: Path) -> None:
    path.unlink()


def _text(path: Path) -> None:
    path.write_text("this is no database, whatever its name says" * 200)


def _other_database(path: Path) -> None:
    path.unlink()
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("CREATE TABLE t (x)")


def _cut_short(path: Path) -> None:
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) * 2 // 3])


def _overwritten(path: Path) -> None:
    whole = bytearray(path.read_bytes())
    for at in range(4096, len(whole), 4096):
        whole[at : at + 64] = os.urandom(64)
    path.write_bytes(whole)


def _index_that_lies(path: Path) -> None:
    """Every page can be read; only a row and its index entry no longer agree."""
    front, entry, rest = path.read_bytes().rpartition(b"id of kit-7")
    assert entry
    path.write_bytes(front + b"zz of kit-7" + rest)


def _newer(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("INSERT INTO schema_version (version) VALUES (999)")
        connection.commit()


def _stamped(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection:
        connection.execute("PRAGMA user_version = 998")


def _without_schema(path: Path) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute("DELETE FROM schema_version")


def _fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("written", ["x", "nan", "1e999", "-5", b"\xff"])
async def test_time_that_is_no_moment_is_none(path: Path, tmp_path: Path, written: object) -> None:
    """A backup is not refused for what it says of its own age."""
    source = tmp_path / "source" / "broker.db"
    await closed_with(source, "new")
    with closing(sqlite3.connect(source)) as connection, connection:
        connection.execute("INSERT INTO meta VALUES ('backup_at', ?)", (written,))

    assert (1, None) == ((found := restore(source, path, force=False, at=NOW)[0]).accounts, found.made_at)


@pytest.mark.parametrize(
    ("harm", "said"),
    [
        (_without_schema, "is damaged .*take an older backup"),
        (_fifo, "no regular file"),
        (_nothing, "there is no"),
        (_text, "cannot be read as a store"),
        (_other_database, "no store of token-broker"),
        (_cut_short, "damaged|cannot be read"),
        (_overwritten, "damaged|cannot be read"),
        (_index_that_lies, "is damaged .*take an older backup"),
        (_newer, "newer token-broker"),
        (_stamped, "take another backup"),
    ],
    ids=lambda one: getattr(one, "__name__", ""),
)
async def test_what_is_no_sound_backup_is_not_restored(
    path: Path, tmp_path: Path, harm: Callable[[Path], None], said: str
) -> None:
    """Whatever is wrong with it, the store that is there stays."""
    source = tmp_path / "source" / "broker.db"
    await closed_with(source, *(f"kit-{number}" for number in range(50)))
    await closed_with(path, "old")
    harm(source)

    with pytest.raises(NotAStore, match=said):
        restore(source, path, force=True, at=NOW)

    assert ["old"] == names_in(path)
    assert ["broker.db", "broker.db.lock"] == sorted(one.name for one in path.parent.iterdir())


async def test_restore_that_was_broken_off_is_done_again(path: Path, tmp_path: Path) -> None:
    """What the first one left is in nobody's way."""
    await closed_with(tmp_path / "source" / "broker.db", "new")
    await closed_with(path, "old")
    for end in ("", "-journal"):
        path.with_name(f"broker.db.restoring{end}").write_text("half")

    restore(tmp_path / "source" / "broker.db", path, force=True, at=NOW)

    assert ["new"] == names_in(path)
    assert not [one for one in path.parent.iterdir() if "restoring" in one.name]


@pytest.mark.parametrize("room", [40_000, 500_000])
async def test_restore_without_room_leaves_the_store_and_names_its_folder(
    small: Path, tmp_path: Path, room: int
) -> None:
    """Not the backup, which is not what has no room."""
    await closed_with(tmp_path / "source" / "broker.db", "new")
    store = small / "broker.db"
    await closed_with(store, "old")
    (small / "filler").write_bytes(b"x" * (os.statvfs(small).f_bavail * 4096 - room))

    with pytest.raises((OSError, NotAStore), match=f"{small}.*full|No space left.*{small}"):
        restore(tmp_path / "source" / "broker.db", store, force=True, at=NOW)

    assert ["broker.db", "broker.db.lock", "filler"] == sorted(one.name for one in small.iterdir())
    (small / "filler").unlink()
    assert ["old"] == names_in(store)
