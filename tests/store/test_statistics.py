"""What is counted in the store for operators: read in pages, remembered, never in anybody's way."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import replace
from typing import Any

import pytest

from broker.admin.statistics import (
    FRESH_FOR,
    LONGEST_REST,
    PATIENCE,
    REST,
    SPAN,
    TOO_OLD,
    RecentStatistics,
    read_statistics,
)
from broker.errors import StorageUnavailable
from broker.model import Reason, Status
from broker.store import Stores
from broker.store.accounts import Accounts
from broker.store.interface import AccountGroup
from tests.sandbox.app import HandClock
from tests.store.rows import account, connect

NOW = 10 * 86400.0


async def test_first_expiry_is_that_of_used_accounts(stores: Stores) -> None:
    """Dead, removed and unused ones frighten nobody; each provider has its own."""
    used = replace(account("used"), expires_at=1000.0, last_used_at=NOW - 60)
    rows = [
        used,
        replace(used, name="later", expires_at=1900.0),
        replace(used, name="elsewhere", provider="kustomer", expires_at=500.0),
        replace(used, name="unused", expires_at=1.0, last_used_at=None),
        replace(used, name="used long ago", expires_at=2.0, last_used_at=NOW - 86401),
        replace(used, name="dead", expires_at=3.0, dead=Reason.LOST_ROTATION),
        replace(used, name="removed", expires_at=4.0, removed_at=5.0),
    ]
    for row in rows:
        await stores.accounts.connect(row, expected=None, next_at=None, grant=None, events=[])

    assert {"kit": 1000.0, "kustomer": 500.0} == (await read_statistics(stores.accounts, NOW)).first_expiries


async def test_ends_are_counted_by_span(stores: Stores) -> None:
    """Of all that are alive; a span begins with its first second."""
    ends = {"a": SPAN - 1, "b": SPAN, "c": 2 * SPAN - 0.5, "d": 2 * SPAN, "dead": 3 * SPAN}
    for name, end in ends.items():
        dead = Reason.REVOKED_OR_EXPIRED if name == "dead" else None
        row = replace(account(name), expires_at=end, dead=dead)
        await stores.accounts.connect(row, expected=None, next_at=None, grant=None, events=[])

    assert {0: 1, 1: 2, 2: 1} == (await read_statistics(stores.accounts, NOW)).ends


@pytest.mark.parametrize("count", [0, 1, 3, 4, 7])
async def test_every_account_is_counted_once(stores: Stores, count: int) -> None:
    """Whatever the pages, here of three; one of removed accounts alone does not end it."""
    names = [f"acme-{number}" for number in range(count)]
    for name in names:
        await connect(stores, name)
    first_page = names[:3] if count > 3 else []
    for name in first_page:
        await stores.accounts.remove(name, 1.0, [])

    groups = [group async for group in stores.accounts.groups(used_since=NOW, span=SPAN, at_once=3)]

    assert count - len(first_page) == sum(group.count for group in groups)
    assert {Status.ACTIVE} >= {group.status for group in groups}


class Slow(Accounts):
    """A store whose readings are handed out by the test, a moment after each other."""

    def __init__(self) -> None:
        self.begun = 0
        self._pages: asyncio.Queue[int | Exception] = asyncio.Queue()

    def end(self, found: int | Exception) -> None:
        self._pages.put_nowait(found)

    async def groups(self, **_: Any) -> AsyncIterator[AccountGroup]:
        self.begun += 1
        page = await self._pages.get()
        if isinstance(page, Exception):
            raise page
        yield AccountGroup("kit", Status.ACTIVE, False, 0, page, 1.0)


@pytest.fixture(name="clock")
def _clock() -> HandClock:
    return HandClock()


async def recent(statistics: RecentStatistics) -> int:
    return (await statistics.recent()).counts["kit", Status.ACTIVE]


async def test_reading_serves_everybody_who_asks_meanwhile_and_for_a_while(clock: HandClock) -> None:
    """One walk for all of them; the next when it is old."""
    store = Slow()
    statistics = RecentStatistics(store=store, clock=clock)
    asking = [asyncio.create_task(recent(statistics)) for _ in range(3)]
    store.end(5)
    first = await asyncio.gather(*asking)
    await clock.advance(FRESH_FOR - 1)
    kept = await recent(statistics)
    store.end(6)
    await clock.advance(1)
    fresh = await recent(statistics)

    assert ([5, 5, 5], 5, 6, 2) == (first, kept, fresh, store.begun)


async def test_long_reading_keeps_nobody_waiting_and_is_not_repeated_soon(clock: HandClock) -> None:
    """Who asks meanwhile is told what is known; a reading of one second is good for half a minute."""
    store = Slow()
    statistics = RecentStatistics(store=store, clock=clock)
    store.end(5)
    known = await recent(statistics)
    await clock.advance(FRESH_FOR)
    asking = asyncio.create_task(recent(statistics))
    await clock.someone_sleeps()
    await clock.advance(PATIENCE)
    old = await asking
    await clock.advance(1.0 - PATIENCE)
    store.end(6)
    new = await recent(statistics)
    await clock.advance(REST - 1)
    kept = await recent(statistics)

    assert (5, 5, 6, 6, 2) == (known, old, new, kept, store.begun)


async def test_old_figures_are_shown_to_nobody(clock: HandClock) -> None:
    """However long the new ones take; where they do not come at all, that is told."""
    store = Slow()
    statistics = RecentStatistics(store=store, clock=clock)
    store.end(5)
    await recent(statistics)
    await clock.advance(TOO_OLD)
    asking = asyncio.create_task(recent(statistics))
    await asyncio.sleep(0)
    await clock.advance(10 * PATIENCE)
    store.end(StorageUnavailable("away"))

    with pytest.raises(StorageUnavailable):
        await asking


async def test_reading_that_was_held_up_is_not_good_for_hours(clock: HandClock) -> None:
    """A machine that slept in the middle of one is back with the next."""
    store = Slow()
    statistics = RecentStatistics(store=store, clock=clock)
    asking = asyncio.create_task(recent(statistics))
    await asyncio.sleep(0)
    await clock.advance(3600)
    store.end(5)
    await asking
    await clock.advance(LONGEST_REST)
    store.end(6)

    assert 6 == await recent(statistics)


async def test_failed_reading_is_told_and_tried_again(clock: HandClock) -> None:
    """Not remembered, and not taken for an empty store."""
    store = Slow()
    statistics = RecentStatistics(store=store, clock=clock)
    store.end(StorageUnavailable("away"))
    with pytest.raises(StorageUnavailable):
        await recent(statistics)
    store.end(7)

    assert 7 == await recent(statistics)


async def test_whoever_goes_takes_no_reading_along(clock: HandClock) -> None:
    """A scrape that is given up does not end what others wait for."""
    store = Slow()
    statistics = RecentStatistics(store=store, clock=clock)
    gone, waiting = (asyncio.create_task(recent(statistics)) for _ in range(2))
    await asyncio.sleep(0)
    gone.cancel()
    with suppress(asyncio.CancelledError):
        await gone
    store.end(8)

    assert (8, 1) == (await waiting, store.begun)


async def test_closing_ends_the_reading(clock: HandClock) -> None:
    """Nothing of it outlives the store."""
    store = Slow()
    statistics = RecentStatistics(store=store, clock=clock)
    waiting = asyncio.create_task(recent(statistics))
    await asyncio.sleep(0)
    await statistics.close()
    await asyncio.wait({waiting})

    assert waiting.cancelled()
    assert {asyncio.current_task()} == asyncio.all_tasks()
