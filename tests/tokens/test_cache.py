"""The cache in front of the store: bounded, lean, and never older than the row."""

import asyncio
import gc
import json
from collections.abc import AsyncIterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from broker.encryption.tokens import TokenEncryption
from broker.errors import UnknownAccount
from broker.model import ENDLESS, Account, Ref, Secret
from broker.observe.health import Health
from broker.store import Stores
from broker.store.database import execute
from broker.store.renewals import RefreshStore
from broker.store.sqlite import SqliteDatabase
from broker.tokens.cache import TokenCache
from tests.fuzz.targets import RING
from tests.store.rows import plain_stores
from tests.template import put_store

ENCRYPTION = TokenEncryption(RING)


@pytest.fixture(name="stores")
async def _stores(tmp_path: Path) -> AsyncIterator[Stores]:
    await put_store(path := tmp_path / "store" / "broker.db")
    database = await SqliteDatabase.open(path)
    yield plain_stores(database)
    await database.close()


async def put(stores: Stores, name: str) -> None:
    access, refresh = ENCRYPTION.encrypt(Ref(name, 1, 1), Secret(f"token of {name}"), Secret("refresh"))
    account = Account(
        name, "kit", 1, 1, "client", access, refresh, "Bearer", "public", 1000.0, 2000.0, 1000.0, 1000.0
    )
    assert await stores.accounts.connect(account, expected=None, next_at=None, grant=None, events=[])


def cache_of(stores: Stores, limit: int = 9, store: RefreshStore | None = None, **more: Any) -> TokenCache:
    """A cache that is notified of changes."""
    cache = TokenCache(store or stores.accounts, ENCRYPTION, limit=limit, ahead=100, **more)
    stores.changes.listen(cache.forget, cache.forget_all)
    return cache


def kept(cache: TokenCache, *names: str) -> list[bool]:
    return [cache.entry(name, 1000.0) is not None for name in names]


async def test_no_more_accounts_are_kept_than_the_limit(stores: Stores) -> None:
    """The least recently used goes; to look at an entry is to use it."""
    for name in ("a", "b", "c"):
        await put(stores, name)
    cache = cache_of(stores, limit=2)
    await cache.read("a")
    await cache.read("b")

    assert [True] == kept(cache, "a")
    await cache.read("c")

    assert [True, False, True] == kept(cache, "a", "b", "c")


async def test_entry_is_the_answer_and_nothing_that_the_collector_tracks(stores: Stores) -> None:
    """The body around the seconds, and what audit, metrics and last-used timestamps need."""
    await put(stores, "a")
    cache = cache_of(stores)
    fingerprint = (await cache.read("a")).fingerprint

    entry = cache.entry("a", 1000.0)
    gc.collect()

    assert entry is not None
    head, tail, *times, provider, epoch, generation, mark = entry
    body = json.loads(head + b"899" + tail)
    assert ("a", "token of a", 899, 1) == tuple(
        body[name] for name in ("account", "access_token", "expires_in", "generation")
    )
    assert ([1000.0, 2000.0, 1900.0], "kit", 1, 1) == (times, provider, epoch, generation)
    assert ENCRYPTION.fingerprint(Secret("token of a")) == mark == fingerprint
    assert not gc.is_tracked(entry)


@pytest.mark.parametrize(
    ("now", "columns", "found"),
    [
        (1000.0, {}, True),
        (1899.0, {}, True),
        (1899.1, {}, False),
        (999.0, {}, False),
        (1000.0, {"expires_at": 1000.0 + ENDLESS}, False),
        (1000.0, {"unusable": 1}, False),
        (1000.0, {"sealed_access": None}, False),
        (1000.0, {"sealed_access": "v1.damaged"}, False),
        (1000.0, {"frozen": "operator"}, True),
    ],
)
async def test_entry_is_given_only_where_nothing_is_to_be_decided(
    stores: Stores, now: float, columns: dict[str, object], found: bool
) -> None:
    """Outside the window by a second, issued in the past, with a stated end, a token that can be handed out."""
    await put(stores, "a")
    for column, value in columns.items():
        await execute(stores.database, f"UPDATE accounts SET {column} = $1", value)
    cache = cache_of(stores)
    await cache.read("a")

    assert found is (cache.entry("a", now) is not None)


async def test_nothing_is_taken_from_memory_while_changes_are_not_heard(stores: Stores) -> None:
    """Every request reads the row; where that fails, what is in memory is marked as unchecked."""
    await put(stores, "a")
    heard = [True]
    cache = cache_of(stores, are_heard=lambda: heard[0])
    read = await cache.read("a")
    heard[0] = False

    during, left = cache.entry("a", 1000.0), cache.kept("a")
    heard[0] = True

    row = replace(read.account, client_id="", sealed_access="", sealed_refresh="")
    assert None is during
    assert replace(read, account=row, unchecked=True) == left
    assert [True] == kept(cache, "a")


async def test_row_that_an_outage_set_back_is_a_problem(stores: Stores) -> None:
    """Until it has caught up; a row that has moved on is none."""
    for name in ("a", "b"):
        await put(stores, name)
    health = Health()
    cache = cache_of(stores, set_back=health.set_back)
    await set_generation(stores, 2)
    await cache.read("a")
    await cache.read("b")

    await set_generation(stores, 1)
    cache.forget_all()
    served = await cache.read("a")
    behind = health.problems
    cache.forget_all()
    await cache.read("a")
    again = health.problems
    await set_generation(stores, 2)
    cache.forget_all()
    for name in ("a", "b"):
        await cache.read(name)

    assert 1 == served.account.generation
    assert behind == again
    assert [True] == ["older generation of 'a' than before (1 in all)" in one for one in behind]
    assert [] == health.problems


async def set_generation(stores: Stores, generation: int) -> None:
    for name in ("a", "b"):
        access, _ = ENCRYPTION.encrypt(Ref(name, 1, generation), Secret("token"), None)
        sql = "UPDATE accounts SET generation = $1, sealed_access = $2 WHERE name = $3"
        await execute(stores.database, sql, generation, access, name)


async def test_changed_row_has_no_entry(stores: Stores) -> None:
    """Until it is read again; a removed account is none."""
    await put(stores, "a")
    await put(stores, "b")
    cache = cache_of(stores)
    for name in ("a", "b"):
        await cache.read(name)

    await stores.accounts.relabel("a", label="new", subject=None)
    changed = kept(cache, "a", "b")
    again = await cache.read("a")
    cache.forget_all()
    forgotten = kept(cache, "a", "b")
    await stores.accounts.remove("a", 1500.0, [])

    assert ([False, True], [False, False]) == (changed, forgotten)
    assert "new" == again.account.label
    with pytest.raises(UnknownAccount, match="was removed"):
        await cache.read("a")
    with pytest.raises(UnknownAccount, match="no account"):
        await cache.read("nobody")


class Slow(RefreshStore):
    """Rows that come when the test lets them, one reading after the other."""

    def __init__(self, stores: Stores) -> None:
        self._stores = stores
        self.asked: list[asyncio.Future[None]] = []

    async def get(self, name: str) -> Account | None:
        row = await self._stores.accounts.get(name)
        self.asked.append(asyncio.get_running_loop().create_future())
        await self.asked[-1]
        return row

    async def has_asked(self, count: int) -> None:
        async with asyncio.timeout(60):
            while len(self.asked) < count:
                await self._stores.accounts.get("nobody")


async def test_reading_that_is_given_up_leaves_nothing_behind(stores: Stores) -> None:
    """The others that read the same row get it, and the next reading is kept."""
    await put(stores, "a")
    slow = Slow(stores)
    cache = cache_of(stores, store=slow)
    gone, *waiting = [asyncio.create_task(cache.read("a")) for _ in range(3)]
    await slow.has_asked(3)
    gone.cancel()
    for asked in slow.asked[1:]:
        asked.set_result(None)
    first, second = await asyncio.gather(*waiting)
    again = asyncio.create_task(cache.read("a"))
    await slow.has_asked(4)
    slow.asked[3].set_result(None)

    assert first == second == await again
    assert [True] == kept(cache, "a")


@pytest.mark.parametrize("order", [(0, 1), (1, 0)])
async def test_what_was_read_before_a_change_is_not_kept(stores: Stores, order: tuple[int, int]) -> None:
    """Whichever of the two readings ends first."""
    await put(stores, "a")
    slow = Slow(stores)
    cache = cache_of(stores, store=slow)
    tasks = [asyncio.create_task(cache.read("a"))]
    await slow.has_asked(1)
    await execute(stores.database, "UPDATE accounts SET scope = 'new'")
    stores.changes.publish("a")
    tasks.append(asyncio.create_task(cache.read("a")))
    await slow.has_asked(2)
    for number in order:
        slow.asked[number].set_result(None)
        await asyncio.wait([tasks[number]])

    entry = cache.entry("a", 1000.0)

    assert entry is not None
    assert b'"scope":"new"' in entry[0]
