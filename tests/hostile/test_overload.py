"""More renewals waited for than is good: a clear refusal at once, and living tokens as ever."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace

import aiohttp
import pytest
from multidict import CIMultiDict

from broker.audit.audit import MOST_WAITING
from broker.encryption.tokens import TokenEncryption
from broker.model import Ref, Secret
from broker.tokens.flight import QUEUE, FlightEnd, Flights, Renewed
from tests.audit.unwritable import unwritable
from tests.fakes.clock import FakeClock
from tests.house import OPERATOR, Answer, House
from tests.until import moment

pytestmark = pytest.mark.slow

LATENCY = 3600.0
PATIENCE = 10.0
LIFE = 172_800


async def connect_many(house: House, number: int) -> list[str]:
    """Copies of one connected account, each with an access token that has expired."""
    model = await house.connect("kit", "living")
    encryption: TokenEncryption = house.broker.context.encryption
    names = [f"dead-{n}" for n in range(number)]
    for n, name in enumerate(names):
        ref = Ref(name, 1, 1)
        access, refresh = encryption.encrypt(ref, Secret("at"), Secret(f"rt-{n}"))
        account = replace(
            model,
            name=name,
            epoch=1,
            generation=1,
            sealed_access=access,
            sealed_refresh=refresh,
            expires_at=house.clock.now() - 1,
            external_id=f"id of {name}",
        )
        assert await house.broker.context.stores.accounts.connect(
            account, expected=None, next_at=None, grant=None, events=[]
        )
    return names


@dataclass(slots=True)
class Crowd:
    """Callers of one broker, as many at once as one likes."""

    house: House
    session: aiohttp.ClientSession
    asked: list[asyncio.Task[Answer]]

    async def ask(self, name: str, *, query: str = "") -> Answer:
        url, headers = (
            f"{self.house.internal}/token/{name}{query}",
            {"Authorization": f"Bearer {self.house.key}"},
        )
        async with self.session.get(url, headers=headers) as answer:
            return Answer(answer.status, CIMultiDict(answer.headers), await answer.read())


@asynccontextmanager
async def waiting(house: House, names: list[str]) -> AsyncIterator[Crowd]:
    """One request for each, all of them waiting for a provider that does not answer."""
    house.sandbox.faults.set("kit", latency=LATENCY)
    async with aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0)) as session:
        crowd = Crowd(house, session, [])
        crowd.asked = [asyncio.create_task(crowd.ask(name)) for name in names]
        async with asyncio.timeout(60):
            while len(house.broker.tokens.flights) + done(crowd) < len(names):
                await moment()
        yield crowd
        # First their patience ends, then the provider wakes up.
        house.clock.advance(11)
        await asyncio.gather(*crowd.asked)
        house.sandbox.faults.set("kit", latency=0)
        while len(house.broker.tokens.flights):
            house.clock.advance(LATENCY)
            await house.clock.settle()


def done(crowd: Crowd) -> int:
    return sum(task.done() for task in crowd.asked)


@pytest.mark.parametrize(
    ("waiters", "places"), [(24, 20), pytest.param(600, QUEUE, marks=pytest.mark.proof)], ids=["few", "600"]
)
async def test_next_one_is_refused_at_once_and_living_tokens_are_served(
    house: House, waiters: int, places: int
) -> None:
    """Of 600 requests for dead tokens 512 wait; the others, and one more, get a 503 while these still wait."""
    names = await connect_many(house, waiters + 1)
    house.broker.tokens.flights.queue = places

    async with waiting(house, names[:waiters]) as crowd:
        refused = await crowd.ask(names[waiters])
        living = await crowd.ask("living")
        turned_away = {task.result().json["code"] for task in crowd.asked if task.done()}
        still_waiting = len(crowd.asked) - done(crowd)

    assert (503, "overloaded", "1") == (refused.status, refused.json["code"], refused.headers["Retry-After"])
    assert "too many requests wait" in refused.json["detail"]
    assert (200, places, {"overloaded"}) == (living.status, still_waiting, turned_away)


async def test_patience_ends_with_a_503_while_hot_tokens_go_on(house: House) -> None:
    """Not before its ten seconds, and for everybody."""
    names = await connect_many(house, 20)

    async with waiting(house, names) as crowd:
        house.clock.advance(PATIENCE - 0.1)
        hot = [(await crowd.ask("living")).status for _ in range(20)]
        early = done(crowd)
        house.clock.advance(0.2)
        answers = await asyncio.gather(*crowd.asked)
        still_hot = await crowd.ask("living")

    assert ({200}, 0, 200) == ({*hot}, early, still_hot.status)
    assert {(503, "provider_unavailable")} == {(one.status, one.json["code"]) for one in answers}
    assert {"1"} == {one.headers["Retry-After"] for one in answers}


async def test_everybody_is_served_when_the_crowd_has_gone(house: House) -> None:
    """Who was turned away too; each account cost one renewal."""
    names = [f"acme-{number}" for number in range(3)]
    for number, name in enumerate(names):
        await house.connect("kit", name, account=str(100 + number))
    house.clock.advance(LIFE + 1)
    house.broker.tokens.flights.queue = 2

    async with waiting(house, names[:2]) as crowd:
        refused = await crowd.ask(names[2])
    after = [await house.get(f"/token/{name}") for name in names]

    assert (503, "overloaded") == (refused.status, refused.json["code"])
    assert [(200, 2)] * 3 == [(one.status, one.json["generation"]) for one in after]
    assert 3 == await house.refreshes()


async def test_full_audit_refuses_hot_tokens_too_and_takes_everybody_again(house: House) -> None:
    """Ten thousand records wait in memory, and no more; then all of them are written, in order."""
    await house.connect()
    audit, file = house.broker.context.authorizer, house.folder / "var" / "audit.jsonl"
    before = await house.get("/token/acme")
    with unwritable(file):
        for number in range(MOST_WAITING - 5):
            await audit.note(OPERATOR, "filling", None, str(number), request_id="filling-up")
        answers = [await house.get("/token/acme") for _ in range(10)]
    house.clock.advance(1)
    async with asyncio.timeout(30):
        while (await house.get("/readyz")).json["status"] != "ok":
            pass
    after = await house.get("/token/acme")

    refused = [one for one in answers if one.status != 200]
    assert [200] * 5 + [503] * 5 == [one.status for one in answers]
    assert {("audit_unavailable", "1")} == {(one.json["code"], one.headers["Retry-After"]) for one in refused}
    assert (before.json["access_token"], 200) == (after.json["access_token"], after.status)
    assert MOST_WAITING - 5 == file.read_text().count("filling-up")


async def test_joiners_are_not_queued(house: House) -> None:
    """A full queue keeps nobody from waiting for a renewal that is under way already."""
    names = await connect_many(house, 1)
    house.broker.tokens.flights.queue = 1

    async with waiting(house, names) as crowd:
        asleep = house.clock.sleeping
        joiners = [asyncio.create_task(crowd.ask(names[0])) for _ in range(50)]
        async with asyncio.timeout(60):
            while house.clock.sleeping < asleep + 50 and not any(task.done() for task in joiners):
                await moment()
        waited = sum(not task.done() for task in joiners)
        crowd.asked += joiners

    assert 50 == waited
    assert {"provider_unavailable"} == {task.result().json["code"] for task in crowd.asked}


async def test_living_token_is_served_short_when_its_renewal_has_no_place(house: House) -> None:
    """Inside its window, and where more life is asked for than is left: as it is, with a warning."""
    names = await connect_many(house, 1)
    house.broker.tokens.flights.queue = 1
    living = await house.account("living")
    house.clock.advance(living.expires_at - house.clock.now() - 600)

    async with waiting(house, names) as crowd:
        in_window = await crowd.ask("living")
        wanting = await crowd.ask("living", query="?min_ttl=3600")
        flying = house.broker.tokens.flights.is_running(living.ref)

    assert (200, 200, False) == (in_window.status, wanting.status, flying)
    assert 1 == in_window.json["expires_in"]
    assert "busy with other renewals" in in_window.json["warning"]
    assert "busy with other renewals" in wanting.json["warning"]


async def test_demand_for_a_renewal_is_refused_when_there_is_no_place(house: House) -> None:
    """`POST …/refresh` too: 503 with Retry-After, and nothing is begun."""
    names = await connect_many(house, 1)
    house.broker.tokens.flights.queue = 1

    async with waiting(house, names):
        refused = await house.post("/token/living/refresh")

    assert (503, "overloaded", "1") == (refused.status, refused.json["code"], refused.headers["Retry-After"])


def flights_until(landing: asyncio.Event, clock: FakeClock) -> Flights:
    """Renewals that all end together, and places for two who wait."""

    async def renew(_: Ref) -> FlightEnd:
        await landing.wait()
        return Renewed()

    return Flights(renew, clock=clock, queue=2)


async def test_joiners_take_no_place_from_others() -> None:
    """However many join one renewal, another one may begin."""
    clock, landing = FakeClock(), asyncio.Event()
    flights = flights_until(landing, clock)
    joined = [asyncio.create_task(flights.join(Ref("a", 1, 1), 1000)) for _ in range(50)]
    await clock.settle()

    full = flights.is_full_for(Ref("other", 1, 1))
    landing.set()
    ends = await asyncio.gather(*joined)

    assert (False, {Renewed()}) == (full, set(ends))


async def test_place_is_given_back_by_whoever_stops_waiting() -> None:
    """By patience, by hanging up, and by the end of the renewal."""
    clock, landing = FakeClock(), asyncio.Event()
    flights, other = flights_until(landing, clock), Ref("other", 1, 1)
    impatient = asyncio.create_task(flights.join(Ref("a", 1, 1), 10))
    caller = asyncio.create_task(flights.join(Ref("b", 1, 1), 1000))
    await clock.settle()
    full = flights.is_full_for(other)
    clock.advance(11)
    await impatient
    after_patience = flights.is_full_for(other)
    third = asyncio.create_task(flights.join(Ref("c", 1, 1), 1000))
    await clock.settle()
    full_again = flights.is_full_for(other)
    caller.cancel()
    await asyncio.gather(caller, return_exceptions=True)
    after_hanging_up = flights.is_full_for(other)
    landing.set()
    await third
    await flights.drain()

    assert (True, False, True, False) == (full, after_patience, full_again, after_hanging_up)
    assert not flights.is_full_for(other)
