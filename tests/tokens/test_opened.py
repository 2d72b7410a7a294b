"""The memory of opened accounts: bounded, lean, and never older than the row."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest

from broker.encryption.tokens import TokenEncryption
from broker.model import Account, Ref, Secret
from broker.observe.health import Health
from broker.store import Stores
from broker.store.renewals import RefreshStore
from broker.store.sqlite import SqliteDatabase
from broker.tokens.opened import UNPACKED, OpenedAccounts
from broker.tokens.packing import Glimpse, OpenedAccount
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


async def test_no_more_accounts_are_held_than_the_limit(stores: Stores) -> None:
    """The least recently used goes; what was asked meanwhile stays the very object it was."""
    for name in ("a", "b", "c"):
        await put(stores, name)
    opened = OpenedAccounts(store=stores.accounts, encryption=ENCRYPTION, limit=2)
    first, second = await opened.get("a"), await opened.get("b")

    await opened.get("a")
    await opened.get("c")

    assert first is await opened.get("a")
    assert second is not await opened.get("b")


async def test_what_is_held_has_no_sealed_texts_and_shares_its_words(stores: Stores) -> None:
    """Whether there are tokens is still known; the records themselves lie in the store alone."""
    await put(stores, "a")
    await put(stores, "b")
    opened = OpenedAccounts(store=stores.accounts, encryption=ENCRYPTION, limit=2)

    one, other = await opened.get("a"), await opened.get("b")

    assert one is not None
    assert other is not None
    assert ("", "") == (one.account.sealed_access, one.account.sealed_refresh)
    assert one.access_token == Secret("token of a")
    assert one.account.client_id is other.account.client_id
    assert one.account.trouble is other.account.trouble


async def test_row_that_an_outage_set_back_is_a_problem(stores: Stores) -> None:
    """Until it has caught up; a row that has moved on is none."""
    for name in ("a", "b"):
        await put(stores, name)
    health = Health()
    opened = OpenedAccounts(store=stores.accounts, encryption=ENCRYPTION, limit=2, set_back=health.set_back)
    await set_generation(stores, 2)
    await opened.get("a")
    await opened.get("b")

    await set_generation(stores, 1)
    opened.forget_all()
    served = await opened.get("a")
    behind = health.problems
    opened.forget_all()
    await opened.get("a")
    again = health.problems
    await set_generation(stores, 2)
    opened.forget_all()
    for name in ("a", "b"):
        await opened.get(name)

    assert served is not None
    assert 1 == served.account.generation
    assert behind == again
    assert [True] == ["older generation of 'a' than before (1 in all)" in one for one in behind]
    assert [] == health.problems


async def set_generation(stores: Stores, generation: int) -> None:
    await stores.database.write(lambda one: one.execute("UPDATE accounts SET generation = $1", generation))


async def test_a_changed_row_is_read_again(stores: Stores) -> None:
    """What was forgotten is opened anew; a removed account is none."""
    await put(stores, "a")
    opened = OpenedAccounts(store=stores.accounts, encryption=ENCRYPTION, limit=2)
    stores.changes.listen(opened.forget)
    held = await opened.get("a")

    await stores.accounts.relabel("a", label="new", subject=None)
    again = await opened.get("a")
    await stores.accounts.remove("a", 1500.0, [])

    assert held is not None
    assert again is not None
    assert (None, "new") == (held.account.label, again.account.label)
    assert await opened.get("a") is None


async def test_older_ones_are_packed_and_held_all_the_same(stores: Stores) -> None:
    """As long as there is room; the least recently used goes first, whether or not it was packed and asked again."""
    for name in ("a", "b", "c", "d"):
        await put(stores, name)
    opened = OpenedAccounts(store=stores.accounts, encryption=ENCRYPTION, limit=3, recent=1)
    first = [await opened.get(name) for name in ("a", "b", "c", "a")]

    await opened.get("d")

    assert first[0] == first[3]
    assert first[0] is not first[3]
    assert [True, False, True, True] == [opened.at_hand(name) is not None for name in ("a", "b", "c", "d")]


async def test_glimpses_keep_a_packed_account_and_bring_back_one_that_is_asked_for_often(
    stores: Stores,
) -> None:
    """Each counts as a use, so the others go first; one in so many makes an object of it again."""
    for name in ("a", "b", "c", "d"):
        await put(stores, name)
    opened = OpenedAccounts(store=stores.accounts, encryption=ENCRYPTION, limit=3, recent=1)
    for name in ("a", "b", "c"):
        await opened.get(name)

    seen = [opened.at_hand("a") for _ in range(UNPACKED)]
    await opened.get("d")

    shown = seen[0]
    assert isinstance(shown, Glimpse)
    assert ("a", 1, Secret("token of a")) == (shown.name, shown.generation, shown.access_token)
    assert ENCRYPTION.fingerprint(shown.access_token) == shown.fingerprint
    assert [Glimpse] * (UNPACKED - 1) + [OpenedAccount] == [*map(type, seen)]
    assert [True, False, True, True] == [opened.at_hand(name) is not None for name in ("a", "b", "c", "d")]


async def test_packed_account_is_forgotten_like_any_other(stores: Stores) -> None:
    """One by one, and all at once."""
    await put(stores, "a")
    await put(stores, "b")
    opened = OpenedAccounts(store=stores.accounts, encryption=ENCRYPTION, limit=9, recent=1)
    stores.changes.listen(opened.forget, opened.forget_all)
    for name in ("a", "b"):
        await opened.get(name)

    await stores.accounts.relabel("a", label="new", subject=None)
    forgotten = opened.at_hand("a")
    again = await opened.get("a")
    opened.forget_all()

    assert forgotten is None
    assert again is not None
    assert "new" == again.account.label
    assert [None, None] == [opened.at_hand("a"), opened.at_hand("b")]


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


async def test_those_who_ask_together_are_given_one(stores: Stores) -> None:
    """A crowd behind a renewal would open the same seal once each; nothing of the reading stays behind."""
    await put(stores, "a")
    slow = Slow(stores)
    opened = OpenedAccounts(store=slow, encryption=ENCRYPTION, limit=9)
    asking = [asyncio.create_task(opened.get("a")) for _ in range(3)]
    await slow.has_asked(3)
    gone, *waiting = asking
    gone.cancel()
    for asked in slow.asked[1:]:
        asked.set_result(None)
    first, second = await asyncio.gather(*waiting)
    opened.forget("a")
    again = asyncio.create_task(opened.get("a"))
    await slow.has_asked(4)
    slow.asked[3].set_result(None)

    assert first is not None
    assert first is second
    assert first is not await again


async def test_what_was_read_before_a_change_is_given_to_nobody_who_asks_after_it(stores: Stores) -> None:
    """Nor held; whichever of the two readings ends first."""
    await put(stores, "a")
    slow = Slow(stores)
    opened = OpenedAccounts(store=slow, encryption=ENCRYPTION, limit=9)
    stores.changes.listen(opened.forget)
    early = asyncio.create_task(opened.get("a"))
    await slow.has_asked(1)
    await stores.accounts.relabel("a", label="new", subject=None)
    late = asyncio.create_task(opened.get("a"))
    await slow.has_asked(2)
    slow.asked[0].set_result(None)
    old = await early
    slow.asked[1].set_result(None)
    new = await late

    assert old is not None
    assert new is not None
    assert (None, "new") == (old.account.label, new.account.label)
    assert new is opened.at_hand("a")
