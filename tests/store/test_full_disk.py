"""A disk that is really full: nothing is lost, nothing is half written, and it passes when there is room."""

import asyncio
import os
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest

from broker.errors import StartRefused, StorageUnavailable
from broker.store import Stores
from broker.store.backup import copy_whole, examine
from broker.store.migrate import migrate, migrations
from broker.store.renewals import Committed
from broker.store.retained import renewals_spool
from broker.store.sqlite import SqliteDatabase
from tests.missing import missing
from tests.store.rows import FIRST, connect, intent, plain_stores, successor

SIZE = 1024 * 1024


@pytest.fixture(name="small")
def _small(tmp_path: Path) -> Iterator[Path]:
    """A file system of one MiB."""
    with file_system(tmp_path / "small", SIZE) as folder:
        yield folder


@contextmanager
def file_system(folder: Path, size: int) -> Iterator[Path]:
    """A file system of so many bytes of its own."""
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size},mode=0700", "tmpfs", str(folder)]
    if subprocess.run(mount, capture_output=True, check=False).returncode != 0:
        missing("a small file system needs root: sudo make test")
    yield folder
    subprocess.run(["umount", "--lazy", str(folder)], check=True)


async def fill(stores: Stores) -> int:
    """Write until nothing more goes in, the last steps byte by byte; how many writes succeeded."""
    written = 0
    for size in (50_000, 5_000, 1, 1):
        try:
            while True:
                await stores.keys.set_meta(f"filler-{written}", "x" * size)
                written += 1
        except StorageUnavailable:
            pass
    return written


async def test_commit_waits_out_a_full_disk(small: Path) -> None:
    """Refused whole while it is full, with the row as it was; the same commit succeeds once there is room."""
    observed: list[bool] = []
    ballast = small / "ballast"
    ballast.write_bytes(b"x" * 200_000)
    database = await SqliteDatabase.open(
        small / "broker.db", observe=lambda succeeded, _: observed.append(succeeded)
    )
    await migrate(database)
    stores = plain_stores(database)
    await connect(stores)
    await stores.accounts.begin(FIRST, intent())
    before = await stores.accounts.get("acme")

    written = await fill(stores)
    attempts = await asyncio.gather(
        *[stores.accounts.commit(successor(), []) for _ in range(5)], return_exceptions=True
    )
    during, failed = await stores.accounts.get("acme"), observed[-1]
    ballast.unlink()
    outcome = await stores.accounts.commit(successor(), [])
    after, last = await stores.accounts.get("acme"), await stores.keys.meta(f"filler-{written - 1}")
    await database.close()

    assert [StorageUnavailable] * 5 == [type(attempt) for attempt in attempts]
    assert (before, False) == (during, failed)
    assert (Committed(), True) == (outcome, observed[-1])
    assert after is not None
    assert (2, {"x"}) == (after.generation, set(last or ""))


def leave_no_byte(path: Path) -> None:
    """Take what the end of the WAL has freed."""
    with path.open("wb", buffering=0) as rest, suppress(OSError):
        while rest.write(b"x" * 512):
            pass


async def test_store_that_filled_its_disk_opens_again_whole(small: Path) -> None:
    """With every write that returned and none that was refused; whether it opens while full is the disk's matter."""
    (small / "ballast").write_bytes(b"x" * 200_000)
    database = await SqliteDatabase.open(small / "broker.db")
    await migrate(database)
    written = await fill(plain_stores(database))
    await database.close()
    leave_no_byte(small / "rest")

    with suppress(StartRefused):
        await (await SqliteDatabase.open(small / "broker.db")).close()
    (small / "ballast").unlink()
    again = await SqliteDatabase.open(small / "broker.db")
    [(count,)] = await again.read("SELECT COUNT(*) FROM meta")
    [(check,)] = await again.read("PRAGMA integrity_check")
    await again.close()

    assert written > 5
    assert (written, "ok") == (count, check)


@pytest.mark.parametrize("killed", [False, True])
async def test_store_is_opened_on_a_full_disk(small: Path, killed: bool) -> None:
    """It reads, refuses writes in a sentence, and takes them once there is room; also what a kill left in its log.

    From then on another connection can read it, as a backup does.
    """
    path = small / "broker.db"
    database = await SqliteDatabase.open(path)
    await migrate(database)
    await connect(plain_stores(database))
    log = path.with_name("broker.db-wal").read_bytes()
    whole = path.read_bytes()
    await database.close()
    if killed:
        path.write_bytes(whole)
        path.with_name("broker.db-wal").write_bytes(log)
        path.with_name("broker.db-wal").chmod(0o600)
    leave_no_byte(small / "ballast")

    again = await SqliteDatabase.open(path)
    stores = plain_stores(again)
    schema = await migrate(again)
    found = await stores.accounts.get("acme")
    with pytest.raises(StorageUnavailable, match="cannot be written"):
        await stores.keys.set_meta("big", "x" * 50_000)
    (small / "ballast").unlink()
    await stores.keys.set_meta("big", "x" * 50_000)
    await stores.keys.set_meta("small", "x")
    await asyncio.to_thread(copy_whole, path, small / "copy.db")
    copy, [(check,)] = examine(small / "copy.db"), await again.read("PRAGMA integrity_check")
    await again.close()

    assert found is not None
    assert 1 == copy.accounts
    assert (max(migrations()), "ok") == (schema, check)


def test_spool_leaves_nothing_unfinished_behind(small: Path) -> None:
    """Half a file is no token set, and takes the room that the store needs."""
    spool = renewals_spool([small / "spool"])
    assert spool.write(successor()) is not None
    room = os.statvfs(small)
    (small / "ballast").write_bytes(b"x" * room.f_bavail * room.f_frsize)

    refused = spool.write(successor())

    assert refused is None
    assert 1 == len(list((small / "spool").iterdir())) == len(spool.read())
