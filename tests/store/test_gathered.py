"""Rows that are asked for at once come with one read, and nobody suffers for another's sake."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.errors import StorageUnavailable
from broker.store import Stores
from broker.store.migrate import migrate
from broker.store.sqlite import SqliteDatabase
from tests.store.rows import connect, plain_stores
from tests.store.test_plans import Recording

NAMES = [f"account-{number}" for number in range(100)]


@pytest.fixture(name="recording")
async def _recording(tmp_path: Path) -> AsyncIterator[Recording]:
    database = await SqliteDatabase.open(tmp_path / "store" / "broker.db")
    await migrate(database)
    recording = Recording(database)
    for name in NAMES:
        await connect(plain_stores(recording), name)
    recording.asked.clear()
    yield recording
    await recording.close()


async def test_rows_asked_for_at_once_share_a_read(recording: Recording) -> None:
    """Each asker gets its own account, or None, however many there are and whoever else asks for it."""
    accounts = plain_stores(recording).accounts

    found = await asyncio.gather(*(accounts.get(name) for name in [*NAMES, "nobody", "account-7"]))

    assert [*NAMES, None, "account-7"] == [one and one.name for one in found]
    assert 2 == len(recording.asked)


async def test_row_is_as_it_is_when_asked_for(stores: Stores) -> None:
    """What was stored before is seen, also while other reads are under way."""
    await connect(stores)
    reading = [asyncio.create_task(stores.accounts.get("acme")) for _ in range(3)]
    await stores.accounts.relabel("acme", label="new", subject=None)

    found = await stores.accounts.get("acme")
    await asyncio.gather(*reading)

    assert found is not None
    assert "new" == found.label


async def test_whoever_asks_when_a_read_has_just_ended_is_answered(recording: Recording) -> None:
    """In whichever turn of the loop that is."""
    accounts = plain_stores(recording).accounts

    async def ask_on(turns: int) -> None:
        for name in NAMES[:20]:
            assert await accounts.get(name)
            for _ in range(turns):
                await asyncio.sleep(0)

    async with asyncio.timeout(60):
        await asyncio.gather(*(ask_on(turns) for turns in range(4)))
        for turns in range(4):
            await ask_on(turns)


async def test_who_gives_up_takes_nobody_along(recording: Recording) -> None:
    """Others get the same row, and its neighbours'."""
    accounts = plain_stores(recording).accounts
    asking = [asyncio.create_task(accounts.get(name)) for name in ("account-1", "account-1", "account-2")]
    await asyncio.sleep(0)

    asking[0].cancel()

    ended = await asyncio.gather(*asking, return_exceptions=True)
    assert isinstance(ended[0], asyncio.CancelledError)
    assert ["account-1", "account-2"] == [one.name for one in ended[1:]]  # type: ignore[union-attr]


async def test_name_that_cannot_be_asked_for_spoils_only_its_own_read(recording: Recording) -> None:
    """A lone surrogate is no text to SQLite."""
    reads = plain_stores(recording).accounts

    ended = await asyncio.gather(
        reads.get("account-1"),
        reads.get("\ud800"),
        reads.get("account-2"),
        return_exceptions=True,
    )

    assert isinstance(ended[1], UnicodeEncodeError)
    assert ["account-1", "account-2"] == [one.name for one in (ended[0], ended[2])]  # type: ignore[union-attr]


async def test_store_that_cannot_be_read_says_so_to_everybody(tmp_path: Path) -> None:
    """And at once."""
    database = await SqliteDatabase.open(tmp_path / "store" / "broker.db")
    await database.close()
    reads = plain_stores(database).accounts

    ended = await asyncio.gather(*(reads.get(name) for name in NAMES), return_exceptions=True)

    assert {StorageUnavailable} == {type(one) for one in ended}


async def test_nobody_waits_for_a_reader_that_was_cancelled(recording: Recording) -> None:
    """So a loop that breaks down ends, and whoever still asks afterwards is answered."""
    reads = plain_stores(recording).accounts
    asking = [asyncio.create_task(reads.get(name)) for name in NAMES]
    await asyncio.sleep(0)

    for task in asyncio.all_tasks():
        if task.get_name() == "store-reader":
            task.cancel()

    async with asyncio.timeout(60):
        ended = await asyncio.gather(*asking, return_exceptions=True)
        again = await reads.get("account-1")
    assert {StorageUnavailable} == {type(one) for one in ended}
    assert again is not None
