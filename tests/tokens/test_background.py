"""Renewing before anybody has to wait, and keeping the unused alive."""

import asyncio
from collections.abc import AsyncIterator, Sequence
from functools import partial

import pytest

from broker.store.database import Transaction
from tests.house import House

LIFE = 172800
DAY = 86400


@pytest.fixture(name="running")
async def _running(house: House) -> AsyncIterator[House]:
    """The house with its background loop going."""
    task = asyncio.create_task(house.broker.background.run())
    yield house
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)


async def beats(house: House, seconds: float, *, beat: float = 20.0) -> None:
    """Let the time pass beat by beat, so that the loop sees each."""
    for _ in range(int(seconds / beat)):
        house.clock.advance(beat)
        await house.clock.settle()
    await house.broker.tokens.flights.drain()


async def test_used_account_is_renewed_in_its_window(running: House) -> None:
    """The caller who comes next finds a fresh token; nobody waited."""
    await running.connect()
    await running.get("/token/acme")
    running.clock.advance(LIFE - 890)

    await beats(running, 60)
    answer = await running.get("/token/acme")

    assert 2 == answer.json["generation"]
    assert answer.json["expires_in"] > 100_000
    assert 1 == await running.refreshes()


async def test_unused_account_is_left_alone_until_it_would_die_of_idleness(running: House) -> None:
    """Nothing for days, then one renewal."""
    await running.connect()

    await beats(running, 4.9 * DAY, beat=DAY / 4)
    before = await running.refreshes()
    await beats(running, DAY, beat=DAY / 4)

    assert (0, 1) == (before, await running.refreshes())


async def test_failed_renewal_is_tried_again_by_itself(running: House) -> None:
    """The background keeps to the schedule without any caller."""
    await running.connect()
    await running.get("/token/acme")
    running.sandbox.faults.set("kit", drop="before", times=2)
    running.clock.advance(LIFE - 890)

    await beats(running, 90)

    assert 2 == (await running.account()).generation
    assert 3 == await running.refreshes()


async def test_dead_and_frozen_are_not_looked_at(running: House) -> None:
    """What rests stays at rest."""
    await running.connect()
    await running.get("/token/acme")
    await running.post("/accounts/acme/freeze")

    running.clock.advance(LIFE)
    await beats(running, 200)

    assert 0 == await running.refreshes()
    assert await running.broker.base.stores.accounts.next_due_at() is None


async def test_storm_is_paced(running: House) -> None:
    """Thirty due at once are spread over seconds: about ten a second."""
    for number in range(30):
        await running.connect("kit", f"acme-{number}", account=str(100 + number))
        await running.get(f"/token/acme-{number}")
    running.clock.advance(LIFE - 600)

    await beats(running, 0.5, beat=0.1)
    early = await running.refreshes()
    await beats(running, 20, beat=0.5)

    assert early <= 12
    assert 30 == await running.refreshes()


async def test_jump_of_the_wall_clock_is_told(running: House) -> None:
    """And nothing is renewed for it."""
    await running.connect()
    running.clock.jump(DAY)

    await beats(running, 60)

    assert 0 == await running.refreshes()
    assert "clock" in str((await running.get("/readyz")).json["problems"])


async def insert(transaction: Transaction, *, sql: str, many: Sequence[tuple[object, float]]) -> None:
    await transaction.execute_all(sql, many)


async def test_what_is_old_is_forgotten_in_one_round(running: House) -> None:
    """However much of it there is: requests that ended, links, codes of plugins, events."""
    database, end = running.broker.base.stores.database, running.clock.now() - 400 * DAY
    old = {
        "INSERT INTO claims (hash, expires_at) VALUES ($1, $2)": "claims",
        "INSERT INTO logins (challenge_hash, browser_hash, purpose, payload, expires_at)"
        " VALUES ($1, '', '', '', $2)": "logins",
        "INSERT INTO plugin_codes (hash, client, subject, scope, expires_at)"
        " VALUES ($1, '', '', '', $2)": "plugin_codes",
        "INSERT INTO events (id, at, event) VALUES (1000 + $1, $2, 'connected')": "events",
    }
    for sql, table in old.items():
        names = range(1050) if table == "events" else [f"old-{number}" for number in range(1050)]
        many = [(name, end) for name in names]
        await database.write(partial(insert, sql=sql, many=many))

    earlier = running.broker.background._purging
    while (purging := running.broker.background._purging) is earlier:
        await beats(running, 20)
    assert purging is not None
    await purging

    left = [await database.read(f"SELECT COUNT(*) FROM {table}") for table in old.values()]
    assert [[(0,)]] * 4 == left
