"""One renewal for all brokers: the lease, the waiting, the news."""

import asyncio

import pytest

from tests.house import Answer
from tests.replicas import Replicas
from tests.tokens.test_refresh import revoke
from tests.until import moment

pytestmark = pytest.mark.slow

LIFE = 172_800


async def until_posted(two: Replicas, count: int = 1) -> None:
    async with asyncio.timeout(60):
        while await two[0].refreshes() < count:
            await moment()


async def test_token_renewed_by_one_is_served_by_the_other(two: Replicas) -> None:
    """From memory: the other one hears that its own copy is old."""
    await two[0].connect()
    before = await two[1].get("/token/acme")

    renewed = await two[0].post("/token/acme/refresh")
    async with asyncio.timeout(60):
        while (after := await two[1].get("/token/acme")).json["generation"] == 1:
            await moment()

    assert (1, 2) == (before.json["generation"], renewed.json["generation"])
    assert renewed.json["access_token"] == after.json["access_token"]


async def test_callers_on_every_broker_share_one_request(two: Replicas) -> None:
    """A hundred on two brokers at once, with an expired token: one POST, and all get what it brought."""
    await two[0].connect()
    two.sandbox.faults.set("kit", latency_after=0.2)
    two.clock.advance(LIFE + 1)

    asking = asyncio.gather(*[two[number % 2].get("/token/acme") for number in range(100)])
    await until_posted(two)
    await two.clock.settle()
    two.clock.advance(0.2)
    answers = await asking

    assert {200} == {answer.status for answer in answers}
    assert {2} == {answer.json["generation"] for answer in answers}
    assert 1 == await two[0].refreshes()


async def test_lease_of_a_living_broker_is_respected(two: Replicas) -> None:
    """However long its request takes; whoever asks elsewhere is told to come again."""
    await two[0].connect()
    two.clock.advance(LIFE + 1)
    two.sandbox.faults.set("kit", latency=1000.0)
    first = asyncio.create_task(two[0].get("/token/acme"))
    await until_posted(two)

    second = asyncio.create_task(two[1].get("/token/acme"))
    await until_done(two, second)
    answer, sent = await second, await two[0].refreshes()
    two.sandbox.faults.set("kit", latency=0)
    two.clock.advance(1000)
    await first

    assert (503, 1) == (answer.status, sent)
    assert "provider_unavailable" == answer.json["code"]


async def until_done(two: Replicas, task: "asyncio.Task[Answer]") -> None:
    """Let time pass, second by second, until the task has ended."""
    async with asyncio.timeout(30):
        while not task.done():
            await two.clock.settle()
            two.clock.advance(1)


async def test_renewal_of_a_dead_broker_is_taken_over_when_its_lease_ends(two: Replicas) -> None:
    """Not before; and as an attempt that may have been processed."""
    await two[0].connect()
    account = await two[0].account()
    two.clock.advance(LIFE + 1)
    leases = two[0].broker.tokens.leases
    await two[0].broker.context.stores.accounts.begin(account.ref, leases.new_intent(account))

    asking = asyncio.create_task(two[1].get("/token/acme"))
    await two.clock.settle()
    before = await two[0].refreshes()
    await two.server.run("UPDATE accounts SET lease_until = 0", two.database)
    two.clock.advance(11)
    await asking
    answer = await two[1].get("/token/acme")

    assert 0 == before
    assert (200, 2, 1) == (answer.status, answer.json["generation"], await two[0].refreshes())


async def test_background_work_is_shared_out(two: Replicas) -> None:
    """Each account that is due is renewed once, though both brokers look."""
    for number in range(12):
        await two[0].connect("kit", f"acme-{number}", account=str(500 + number))
        await two[number % 2].get(f"/token/acme-{number}")
    for house in two.houses:
        await house.broker.tokens.uses.flush()
    two.clock.advance(LIFE - 600)
    loops = [asyncio.create_task(house.broker.background.run()) for house in two.houses]

    async with asyncio.timeout(20):
        while await two[0].refreshes() < 12:
            await two.clock.settle()
            two.clock.advance(0.5)
    await two.clock.settle()
    for loop in loops:
        loop.cancel()
    await asyncio.gather(*loops, return_exceptions=True)
    await asyncio.gather(*[house.broker.tokens.flights.drain() for house in two.houses])

    assert 12 == await two[0].refreshes()
    assert [] == (await two[0].judge())["overlaps"]


async def test_refused_grant_dies_after_confirmation_by_whichever_broker(two: Replicas) -> None:
    """R8: the second refusal counts although another broker had the first."""
    await two[0].connect()
    await revoke(two[0])
    two.clock.advance(LIFE + 1)

    first = asyncio.create_task(two[0].get("/token/acme"))
    await until_posted(two)
    await two.clock.settle()
    once = await two[1].account()
    two.clock.advance(2.1)
    second = await two[1].get("/token/acme")
    two.clock.advance(10)
    await first

    assert (1, None) == (once.trouble.refusals, once.dead)
    assert (409, "revoked_or_expired") == (second.status, second.json["reason"])
    assert 2 == await two[0].refreshes()
