"""A store of version 0.1.0 goes on under this version, on both databases."""

import subprocess
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, closing
from dataclasses import replace
from functools import partial
from pathlib import Path
from sqlite3 import connect as open_file

import pytest

from broker.admin.store_checks import shared_identities
from broker.config.settings import FileKey
from broker.encryption.tokens import TokenEncryption
from broker.keys import open_ring
from broker.model import Account, Secret
from broker.store import Stores
from broker.store.database import Database, Transaction
from broker.store.migrate import migrate, migrations
from broker.store.postgres import PostgresDatabase
from broker.store.sqlite import SqliteDatabase
from tests.fakes.clock import FakeClock
from tests.postgres import needs_postgres
from tests.store.rows import plain_stores

FIXTURE = Path(__file__).parent / "store-0.1.0.tar.gz"
SCHEMA = 9
TWINS = "UPDATE accounts SET provider = 'kit', external_id = '29' WHERE name IN ('demo-kustomer', 'imported')"
"""What an earlier version let happen: three accounts of one identity."""


@pytest.fixture(name="unpacked")
def _unpacked(tmp_path: Path) -> Path:
    # Not with tarfile: its filters came with Python 3.11.4, Debian 12 has 3.11.2, and 3.12 warns without one.
    subprocess.run(["tar", "-xzf", FIXTURE, "-C", tmp_path, "--no-same-owner"], check=True)
    folder = tmp_path / "store-0.1.0" / "var"
    folder.chmod(0o700)
    return folder


@pytest.fixture(name="old", params=["sqlite", "postgres"])
async def _old(request: pytest.FixtureRequest, unpacked: Path) -> AsyncIterator[Database]:
    """The store as the old version left it."""
    async with AsyncExitStack() as stack:
        if request.param == "sqlite":
            sqlite = await SqliteDatabase.open(unpacked / "broker.db")
            stack.push_async_callback(sqlite.close)
            yield sqlite
            return
        server = needs_postgres()
        name = await server.new()
        stack.push_async_callback(server.give_back, name)
        postgres = await PostgresDatabase.open(Secret(server.url(name)), replica="a")
        stack.push_async_callback(postgres.close)
        await migrate(postgres, {number: sql for number, sql in migrations().items() if number <= SCHEMA})
        await copy_rows(unpacked / "broker.db", postgres)
        yield postgres


async def copy_rows(path: Path, database: Database) -> None:
    with closing(open_file(path)) as source:
        tables = [name for (name,) in source.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        for table in tables:
            if table == "schema_version":
                continue
            found = source.execute(f"SELECT * FROM {table}")
            names = [column[0] for column in found.description]
            places = ", ".join(f"${number}" for number in range(1, len(names) + 1))
            sql, rows = f"INSERT INTO {table} ({', '.join(names)}) VALUES ({places})", found.fetchall()
            await database.write(partial(replace_rows, table=table, sql=sql, rows=rows))


async def replace_rows(
    transaction: Transaction, *, table: str, sql: str, rows: list[tuple[object, ...]]
) -> None:
    await transaction.execute(f"DELETE FROM {table}")
    if rows:
        await transaction.execute_all(sql, rows)


async def account(stores: Stores, name: str) -> Account:
    found = await stores.accounts.get(name)
    assert found is not None
    return found


async def test_old_store_goes_on(old: Database, unpacked: Path) -> None:
    """Every account is there, and its tokens are decrypted with the keys that were there."""
    await migrate(old)

    stores = plain_stores(old)
    ring = await open_ring(stores.keys, FileKey(unpacked / "master.key"), FakeClock())
    imported = await account(stores, "imported")
    generations = [(await account(stores, name)).generation for name in ("demo-kit", "demo-kustomer")]
    assert [2, 1] == generations
    assert Secret("rt-1") == TokenEncryption(ring.keyring).refresh_token(imported)
    assert 4 == len(await stores.events.last_events(9))
    assert [] == await stores.accounts.doubles(9)


async def test_accounts_that_share_an_identity_go_on(old: Database) -> None:
    """All are served and connected again as before; they are listed, and no further one comes to them."""
    await old.write(lambda one: one.execute(TWINS))
    await migrate(old)
    stores = plain_stores(old)

    first = await account(stores, "demo-kit")
    again = replace(first, epoch=first.epoch + 1, generation=first.generation + 1)
    assert await stores.accounts.connect(again, expected=first.ref, next_at=None, grant=None, events=[])
    third = replace(again, name="third", epoch=1, generation=1)
    assert not await stores.accounts.connect(third, expected=None, next_at=None, grant=None, events=[])
    pairs, checks = (
        await stores.accounts.doubles(9),
        [one async for one in shared_identities(stores.accounts)],
    )
    for name in ("demo-kustomer", "imported"):
        await stores.accounts.remove(name, 1.0, [])

    assert [("demo-kit", "demo-kustomer"), ("demo-kit", "imported"), ("demo-kustomer", "imported")] == pairs
    assert [("warning", "identity")] * 3 == [(check.level, check.what) for check in checks]
    assert "demo-kit and imported are the same account" in checks[1].detail
    assert [] == [one async for one in shared_identities(stores.accounts)]


@pytest.mark.parametrize(("length", "is_cut"), [(199, False), (200, True), (201, False)])
async def test_identity_of_the_length_of_a_cut_is_not_believed(
    old: Database, length: int, is_cut: bool
) -> None:
    """Version 0.1.0 stored at most 200 characters, so of exactly these nobody knows whether they are all."""
    stored = "ж" * length
    await old.write(
        lambda one: one.execute("UPDATE accounts SET external_id = $1 WHERE provider = 'kit'", stored)
    )
    await migrate(old)
    stores = plain_stores(old)

    cut = [one.name for one in await stores.accounts.maybe_cut("kit", stored)]
    found = await stores.accounts.by_identity("kit", stored)

    assert (is_cut, is_cut) == ("demo-kit" in cut, found is None)
    assert [] == await stores.accounts.doubles(9)
