"""What one broker has hot stops counting when another one changes it; a new generation: test_renewal.py."""

import asyncio
from collections.abc import Awaitable, Callable

import pytest

from tests.house import House
from tests.replicas import Replicas
from tests.tokens.test_background import LIFE
from tests.until import moment

pytestmark = pytest.mark.slow

TIMES = 5
SECOND = 1.0


async def hot(house: House, *, key: str | None = None) -> None:
    """Ask until it can only come from memory."""
    assert [200] * TIMES == [(await house.get("/token/acme", key=key)).status for _ in range(TIMES)]


async def until_answered(house: House, status: int) -> None:
    """Go on asking until the answer is that; the clock of the brokers stands still."""
    async with asyncio.timeout(60):
        while (await house.get("/token/acme")).status != status:
            await moment()


async def removed(house: House) -> None:
    await house.ask("DELETE", "/accounts/acme")


async def purged(house: House) -> None:
    await house.ask("DELETE", "/accounts/acme?purge=1")


async def renamed(house: House) -> None:
    await house.ask("PATCH", "/accounts/acme", json={"name": "globex"})


@pytest.mark.parametrize("change", [removed, purged, renamed])
async def test_account_that_another_broker_took_away_is_gone(
    two: Replicas, change: Callable[[House], Awaitable[None]]
) -> None:
    """As soon as the news is here."""
    await two[0].connect()
    await hot(two[1])

    await change(two[0])

    await until_answered(two[1], 404)
    assert 404 == (await two[1].get("/token/acme")).status


async def test_account_that_another_broker_froze_is_not_renewed(two: Replicas) -> None:
    """By nobody, however hot it was."""
    await two[0].connect()
    await hot(two[1])

    await two[0].post("/accounts/acme/freeze")
    two.clock.advance(LIFE)
    await until_answered(two[1], 409)

    assert 0 == await two[0].refreshes()


@pytest.mark.parametrize(
    ("sql", "status"),
    [
        ("DELETE FROM callers WHERE name = 'other'", 401),
        ("""UPDATE callers SET accounts = '["globex"]' WHERE name = 'other'""", 403),
    ],
    ids=["gone", "other accounts"],
)
async def test_rights_that_changed_in_the_database_count_within_a_second(
    two: Replicas, sql: str, status: int
) -> None:
    """On every broker, and nobody has to tell them."""
    await two[0].connect()
    key = await two[0].caller(name="other")
    for house in two.houses:
        await hot(house, key=key)

    await two.server.run(sql, two.database)
    two.clock.advance(SECOND)

    assert [status] * 2 == [(await house.get("/token/acme", key=key)).status for house in two.houses]
