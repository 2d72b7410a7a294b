"""`GET /token/{account}?wait=`: an answer when there is news, and not before."""

import asyncio
from collections.abc import AsyncIterator, Awaitable
from contextlib import asynccontextmanager

import pytest

from broker.admin.routes import operator
from tests.house import Answer, House

LIFE = 172800


@asynccontextmanager
async def asking(
    house: House, seconds: int = 60, *, etag: str = '"1"', key: str | None = None
) -> AsyncIterator["asyncio.Task[Answer]"]:
    """A request that waits for news of `acme`; it is checked that it does."""
    headers = {"If-None-Match": etag}
    question = house.ask("GET", f"/token/acme?wait={seconds}", headers=headers, key=key)
    asked = asyncio.create_task(_answer(question))
    await house.clock.settle()
    assert not asked.done()
    yield asked
    asked.cancel()
    await asyncio.gather(asked, return_exceptions=True)


async def _answer(question: Awaitable[Answer]) -> Answer:
    return await question


async def test_wait_ends_with_another_generation(house: House) -> None:
    """The new token comes as soon as it is durable; no clock moved."""
    await house.connect()

    async with asking(house) as asked:
        await house.post("/token/acme/refresh")
        answer = await asked

    assert (200, 2, '"2"') == (answer.status, answer.json["generation"], answer.headers["ETag"])
    assert 0 == len(house.broker.tokens.waiters)


async def test_wait_ends_with_time(house: House) -> None:
    """Nothing new: 304, as without `wait`."""
    await house.connect()

    async with asking(house, 30) as asked:
        house.clock.advance(29)
        await house.clock.settle()
        early = asked.done()
        house.clock.advance(1)
        answer = await asked

    assert (False, 304, b"") == (early, answer.status, answer.body)


async def test_wait_ends_with_another_status(house: House) -> None:
    """An operator freezes it: the token that lives is answered as it is."""
    await house.connect()

    async with asking(house) as asked:
        await house.post("/accounts/acme/freeze")
        answer = await asked

    assert 304 == answer.status


async def test_wait_ends_with_removal(house: House) -> None:
    """And says so."""
    await house.connect()

    async with asking(house) as asked:
        await house.ask("DELETE", "/accounts/acme")
        answer = await asked

    assert (404, "unknown_account") == (answer.status, answer.json["code"])


async def test_what_changes_no_token_does_not_end_it(house: House) -> None:
    """A label, a use, another account."""
    await house.connect()

    async with asking(house) as asked:
        await house.ask("PATCH", "/accounts/acme", json={"label": "Acme"})
        await house.get("/token/acme")
        await house.connect("kustomer", "other")
        await house.clock.settle()
        done = asked.done()

    assert not done


async def test_wait_ends_with_the_token_s_death(house: House) -> None:
    """Renewals fail and the token ends: the error comes at once, not at the end of the minute."""
    await house.connect()
    house.sandbox.faults.set("kit", status=503)
    house.clock.advance(LIFE - 890)
    await house.get("/token/acme")
    await house.clock.settle()
    house.clock.advance(860)
    await house.clock.settle()

    async with asking(house) as asked:
        house.clock.advance(29.5)
        answer = await asked

    assert 503 == answer.status


async def test_wait_inside_the_window_begins_the_renewal(house: House) -> None:
    """Somebody who only ever waits is not left with a token that nobody renews."""
    await house.connect()
    house.clock.advance(LIFE - 890)

    answer = await house.ask("GET", "/token/acme?wait=60", headers={"If-None-Match": '"1"'})

    assert (200, 2) == (answer.status, answer.json["generation"])


async def test_wait_ends_when_the_broker_stops(house: House) -> None:
    """With what there is, so that the client can turn to another broker."""
    await house.connect()

    async with asking(house) as asked:
        house.broker.stop_waiting()
        answer = await asked
        house.broker.tokens.permit.stopping = house.broker.context.health.stopping = False

    assert 304 == answer.status


async def test_old_generation_is_not_waited_with(house: House) -> None:
    """Whoever is behind gets the current token at once."""
    await house.connect()
    await house.post("/token/acme/refresh")

    answer = await house.ask("GET", "/token/acme?wait=60", headers={"If-None-Match": '"1"'})

    assert (200, 2) == (answer.status, answer.json["generation"])


async def test_revoked_caller_gets_no_token_for_having_waited(house: House) -> None:
    """The credential is looked at again before anything is handed out."""
    await house.connect()
    key = await house.caller(name="fired")

    async with asking(house, key=key) as asked:
        await house.broker.callers.service.remove(operator(0), "fired", request_id="r")
        await house.post("/token/acme/refresh")
        answer = await asked

    assert (401, "unauthenticated") == (answer.status, answer.json["code"])


@pytest.mark.parametrize(
    ("query", "headers", "status", "word"),
    [
        ("wait=5", {}, 400, "If-None-Match"),
        ("wait=61", {"If-None-Match": '"1"'}, 400, "from 0 to 60"),
        ("wait=-1", {"If-None-Match": '"1"'}, 400, "from 0 to 60"),
        ("wait=x", {"If-None-Match": '"1"'}, 400, "from 0 to 60"),
        ("wait=0", {"If-None-Match": '"1"'}, 304, ""),
    ],
)
async def test_wait_is_up_to_a_minute_and_with_an_etag(
    house: House, query: str, headers: dict[str, str], status: int, word: str
) -> None:
    """Anything else is refused with what would be right."""
    await house.connect()

    answer = await house.ask("GET", f"/token/acme?{query}", headers=headers)

    assert status == answer.status
    assert word in (answer.json["detail"] if answer.body else "")


async def test_waiting_needs_the_right_to_the_token(house: House) -> None:
    """Whether or not there is such an account."""
    key = await house.caller("kit-*", name="narrow")

    answer = await house.ask("GET", "/token/acme?wait=5", key=key, headers={"If-None-Match": '"1"'})

    assert 403 == answer.status


async def test_reader_that_hung_up_is_handed_nothing(house: House) -> None:
    """No token leaves, and none is written down as handed out."""
    await house.connect()

    async with asking(house) as asked:
        asked.cancel()
        await house.clock.settle()
        await house.post("/token/acme/refresh")
        await house.clock.settle()

    served = 'broker_token_requests_total{outcome="served",provider="kit"} 1.0'
    assert served in house.broker.context.metrics.text().decode().splitlines()
