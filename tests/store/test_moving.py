"""A store moves from SQLite to PostgreSQL whole, or not at all; afterwards only one of them starts."""

from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.errors import StartRefused
from broker.model import Event, EventKind, Secret, Spare
from broker.store import Stores
from broker.store.keys import KeyStore
from broker.store.migrate import MOVED_TO, UNFINISHED, migrate, move, refuse_moved
from broker.store.postgres import PostgresDatabase
from broker.store.sqlite import SqliteDatabase
from tests.postgres import needs_postgres, new_database
from tests.store.rows import account, caller, connect, install, key, plain_stores, ticket

pytestmark = pytest.mark.slow


@pytest.fixture(name="source")
async def _source(tmp_path: Path) -> AsyncIterator[Stores]:
    """A store with something in most tables."""
    database = await SqliteDatabase.open(tmp_path / "store" / "broker.db")
    await migrate(database)
    stores = plain_stores(database)
    for number in range(3):
        await connect(stores, f"acme-{number}")
    await stores.accounts.add_spare(Spare("s", "acme-1", 1, 1, "sealed", 5.0))
    await stores.installs.add_ticket(ticket())
    await stores.installs.begin_install(install())
    await stores.callers.add_caller(caller(), key())
    await stores.events.add_events([Event(1.0, EventKind.CONNECTED, "acme-1")])
    await stores.accounts.touch({"acme-1": (5.0, 6.0)}, {("acme-1", "service"): 5.0})
    yield stores
    await database.close()


@pytest.fixture(name="target")
async def _target() -> AsyncIterator[PostgresDatabase]:
    async with new_database(needs_postgres()) as database:
        yield database


async def test_every_row_arrives_as_it_was(source: Stores, target: PostgresDatabase) -> None:
    """Counted by table, and alike in every field."""
    counts = await move(source.database, target, where="there")

    there = plain_stores(target)
    assert (3, 1, 1, 1) == (counts["accounts"], counts["spares"], counts["uses"], counts["events"])
    assert account("acme-0") == await there.accounts.get("acme-0")
    assert await source.accounts.spares("acme-1", 1) == await there.accounts.spares("acme-1", 1)
    assert await source.callers.by_key("k1") == await there.callers.by_key("k1")
    assert await source.installs.install("state") == await there.installs.install("state")
    assert await source.events.last_events(9) == await there.events.last_events(9)


async def test_source_starts_no_broker_any_more(source: Stores, target: PostgresDatabase) -> None:
    """Two that renew the same grants would kill them; and it moves once."""
    await move(source.database, target, where="there")

    with pytest.raises(StartRefused, match="was moved to PostgreSQL"):
        await refuse_moved(KeyStore(source.database))
    with pytest.raises(StartRefused, match="moved already"):
        await move(source.database, target, where="there")
    await refuse_moved(KeyStore(target))


async def test_half_a_copy_is_refused(source: Stores, target: PostgresDatabase) -> None:
    """By a broker that would start on it, and by another copy into it; the source is as it was."""
    await KeyStore(target).set_meta(UNFINISHED, "yes")

    with pytest.raises(StartRefused, match="half a store"):
        await refuse_moved(KeyStore(target))
    with pytest.raises(StartRefused, match="half a store"):
        await move(source.database, target, where="there")
    assert await KeyStore(source.database).meta(MOVED_TO) is None


async def test_copy_goes_into_an_empty_database_only(source: Stores, target: PostgresDatabase) -> None:
    """What is there already would be mixed up with what comes."""
    await connect(plain_stores(target), "other")

    with pytest.raises(StartRefused, match="1 rows in accounts"):
        await move(source.database, target, where="there")
    assert await KeyStore(source.database).meta(MOVED_TO) is None


async def test_move_that_broke_off_at_the_end_is_ended(source: Stores, target: PostgresDatabase) -> None:
    """The source has moved and the copy is whole: the same call takes the last step."""
    await move(source.database, target, where="there")
    await KeyStore(target).set_meta(UNFINISHED, "yes")

    counts = await move(source.database, target, where="there")

    assert 3 == counts["accounts"]
    await refuse_moved(KeyStore(target))


async def test_row_that_is_lost_on_the_way_stops_the_move(source: Stores, target: PostgresDatabase) -> None:
    """Nothing starts on a copy whose counts differ."""
    await target.write(
        lambda one: one.execute(
            "CREATE RULE lose AS ON INSERT TO accounts WHERE new.name = 'acme-2' DO INSTEAD NOTHING"
        )
    )
    try:
        with pytest.raises(StartRefused, match="accounts has 3 rows in the source and 2 in the copy"):
            await move(source.database, target, where="there")
        with pytest.raises(StartRefused, match="half a store"):
            await refuse_moved(KeyStore(target))
        assert await KeyStore(source.database).meta(MOVED_TO) is None
    finally:
        await target.write(lambda one: one.execute("DROP RULE lose ON accounts"))


async def test_replica_of_a_name_that_is_taken_does_not_start() -> None:
    """The second one stops with one line."""
    server = needs_postgres()
    async with new_database(server) as first:
        [(database,)] = await first.read("SELECT current_database()")

        with pytest.raises(StartRefused, match='another broker named "a" runs on this database'):
            await PostgresDatabase.open(Secret(server.url(str(database))), replica="a")
        other = await PostgresDatabase.open(Secret(server.url(str(database))), replica="b")
        await other.close()

        assert first.line.is_named
