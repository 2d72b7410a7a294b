"""Renewing before anybody has to wait, and keeping the unused alive."""

import asyncio
import json
from collections.abc import AsyncIterator, Sequence
from functools import partial

import pytest

from broker.store.database import Transaction, execute
from broker.tokens.background import until_cancelled
from tests.commanding import as_operator, commands_at
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
    assert await running.broker.context.stores.accounts.next_due_at() is None


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
    database, end = running.broker.context.stores.database, running.clock.now() - 400 * DAY
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


@pytest.mark.parametrize(
    ("column", "value"),
    [
        ("issued_at", "'none'"),
        ("expires_at", "1e308"),
        ("refreshed_at", "'none'"),
        ("not_before", "'none'"),
        ("epoch", "'none'"),
        ("generation", "9e999"),
        ("ambiguous", "-1"),
        ("attempts", "x'ff'"),
        ("label", "CAST(x'ff' AS TEXT)"),
        ("provider", "x'ff'"),
        ("intent_id", "'begun'"),
        ("name", "CAST(x'61ff' AS TEXT)"),
        ("name", "x'61ff'"),
        ("removed_at", "'none'"),
        ("next_at", "'none'"),
    ],
)
async def test_damaged_row_hurts_its_account_alone(house: House, column: str, value: str) -> None:
    """The broker starts, renews the others, lists all and names the damaged one; connecting again mends it."""
    for number, name in enumerate(("acme", "zed")):
        await house.connect("kit", name, account=str(100 + number))
        await house.get(f"/token/{name}")
    await house.broker.tokens.uses.flush()
    house.clock.advance(LIFE - 100)
    await execute(
        house.broker.context.stores.database, f"UPDATE accounts SET {column} = {value} WHERE name = 'acme'"
    )
    await house.restart()
    task = asyncio.create_task(house.broker.background.run())
    await beats(house, 60, beat=5)
    await until_cancelled(task)

    async with commands_at(house):
        pages = {page: await as_operator(house, page) for page in ("accounts", "events", "check")}
    metrics = await house.get("/metrics", key=await house.caller(permissions=("admin",), name="admin"))
    house.clock.advance(60)
    tokens = {name: await house.get(f"/token/{name}") for name in ("acme", "zed")}
    reasons = {one["account"][0]: one["reason"] for one in json.loads(pages["accounts"])["accounts"]}
    told = {(one["account"] or "-")[0]: one["reason"] for one in json.loads(pages["events"])["events"]}

    assert 200 == metrics.status
    assert (200, 2) == (tokens["zed"].status, (await house.account("zed")).generation)
    if column == "next_at":
        # It is worked out anew.
        assert (200, 2) == (tokens["acme"].status, (await house.account("acme")).generation)
        return
    # Nobody can ask for a name that is damaged; whose it was may connect again under it.
    assert {"record_damaged"} == {told["a"], reasons.get("a", told["a"] if column == "name" else None)}
    assert "damaged records" in pages["check"]
    assert (404 if column == "name" else 409) == tokens["acme"].status
    if column != "provider":
        await house.connect("kit", "acme", account="100")
        assert 200 == (await house.get("/token/acme")).status
